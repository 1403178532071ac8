// Opens the page as its readers do, with Playwright in Chromium, and fails where it is not as it should be.
"use strict";
const assert = require("node:assert/strict");
const { execFileSync } = require("node:child_process");
const { PLAYWRIGHT, PAGE, TOKEN, WARREN, FOLDER } = process.env;
const { chromium } = require(PLAYWRIGHT);

const PATIENCE = 30000;
const warren = (...words) => execFileSync(WARREN, words, { stdio: ["ignore", "pipe", "inherit"] });
const box = (key) => `.wide .node[data-key="${key}"]`;
const until = (page, what, ...given) => page.waitForFunction(what, ...given, { timeout: PATIENCE, polling: 50 });
const healthy = (page) => until(page, () => document.getElementById("health").className.includes("good"));
// The colour that something has on the screen, as red, green and blue.
const colour = (page, selector, property) => page.$eval(selector, (element, name) =>
  getComputedStyle(element)[name].match(/\d+/g).slice(0, 3).map(Number), property);
const isRed = ([red, green, blue]) => red > 150 && red > green + 60 && red > blue + 60;

async function main() {
  const browser = await chromium.launch({
    executablePath: "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
  });
  const wrong = [];
  const open = async (options) => {
    const page = await (await browser.newContext({ viewport: { width: 1400, height: 900 }, ...options })).newPage();
    page.setDefaultTimeout(PATIENCE);
    page.on("pageerror", (error) => wrong.push(error.message));
    page.on("console", (message) => { if (message.type() === "error") wrong.push(message.text()); });
    page.on("request", (request) => { if (!request.url().startsWith(PAGE) && !request.url().startsWith("data:")) wrong.push(request.url()); });
    return page;
  };

  // Without the token, and with another, nothing is to be seen.
  const page = await open({});
  for (const path of ["/", "/?token=0123456789abcdef", "/page.js", "/page.css"]) {
    const refused = await page.goto(PAGE + path);
    assert.equal(refused.status(), 401, path);
    assert.equal(await page.locator("svg").count(), 0, path);
  }
  // That they were refused is what the console had to say.
  wrong.length = 0;
  await page.goto(`${PAGE}/?token=${TOKEN}`);
  assert.equal(page.url(), `${PAGE}/`, "the token does not stay in the address");
  await healthy(page);

  // The picture: all of it, one of its forms, and what it says to who does not see it.
  for (const key of ["world", "uplink", "lan:br1", "guest:cnx6", "guest:cnx7", "forward:* 22210/tcp", "site:0", "socks"]) {
    assert.ok(await page.locator(box(key)).first().isVisible(), key);
  }
  assert.equal(await page.locator(".narrow svg").isVisible(), false);
  await page.getByRole("button", { name: /^Guest cnx6, lxc, 10\.1\.1\.6/ }).waitFor();
  await page.getByRole("status").waitFor();
  await page.getByRole("rowheader", { name: "cnx6" }).waitFor();
  assert.match(await page.title(), /^warren/);

  // By keyboard alone: to a guest, its details, the one beside it, and back.
  await page.locator("h1").click();
  for (let stops = 0; (await page.evaluate(() => document.activeElement.dataset.key)) !== "guest:cnx6"; stops += 1) {
    assert.ok(stops < 30, "no way by Tab to the guest");
    await page.keyboard.press("Tab");
  }
  await page.keyboard.press("Enter");
  const details = page.getByRole("region", { name: "Guest cnx6" });
  await details.getByText("10.1.1.6").waitFor();
  await details.getByText("22210/tcp").waitFor();
  await page.keyboard.press("Escape");
  await until(page, () => document.getElementById("details").hidden && document.activeElement.dataset.key === "guest:cnx6");
  await page.keyboard.press("ArrowLeft");
  assert.match(await page.evaluate(() => document.activeElement.dataset.key), /^lan:br1$/);
  // And by hand.
  await page.click(box("lan:br1"));
  await page.getByRole("region", { name: "LAN br1" }).getByText("10.1.1.1/24").waitFor();
  await page.click("#details-close");

  // Traffic moves: on the guest's cable, and in its box.
  warren("guest", "exec", "cnx6", "--", "sh", "-c", "ping -c 400 -s 1400 -i 0.01 10.1.1.7 > /dev/null &");
  await until(page, () => /flow[1-4]/.test(document.querySelector('.wide [data-line="guest:cnx6"]').getAttribute("class")));
  const figures = `${box("guest:cnx6")} [data-slot="rate"]`;
  await until(page, (selector) => /↓ [1-9].*B\/s ↑/.test(document.querySelector(selector).textContent), figures);
  assert.equal(await page.$eval('.wide [data-line="guest:cnx6"] .flow', (flow) => getComputedStyle(flow).animationName), "run");
  await page.emulateMedia({ reducedMotion: "reduce" });
  assert.equal(await page.$eval('.wide [data-line="guest:cnx6"] .flow', (flow) => getComputedStyle(flow).animationName), "none");

  // What a guest may not send is counted in red.
  assert.equal(await page.textContent(`${box("guest:cnx6")} [data-slot="note"]`), "");
  warren("guest", "exec", "cnx6", "--", "sh", "-c", "ip address add 10.1.1.99/32 dev eth0; ping -c 2 -W 1 -I 10.1.1.99 10.1.1.1; ip address del 10.1.1.99/32 dev eth0; true");
  const note = `${box("guest:cnx6")} [data-slot="note"]`;
  await until(page, (selector) => /\d+ dropped/.test(document.querySelector(selector).textContent), note);
  assert.ok(isRed(await colour(page, note, "fill")));

  // A guest stops: it is seen, in red and in words, and said once; the other one is not touched. Then it is back.
  const light = `${box("guest:cnx7")} .light`;
  assert.ok(!isRed(await colour(page, light, "fill")));
  warren("guest", "stop", "cnx7");
  await until(page, (selector) => document.querySelector(selector).classList.contains("off"), box("guest:cnx7"));
  assert.match(await page.textContent(`${box("guest:cnx7")} [data-slot="state"]`), /stopped/);
  assert.ok(isRed(await colour(page, light, "fill")));
  assert.match(await page.textContent("#health"), /cnx7: stopped/);
  assert.match(await page.getAttribute(box("guest:cnx7"), "aria-label"), /; stopped/);
  assert.ok(!(await page.getAttribute(box("guest:cnx6"), "class")).includes("off"));
  await page.screenshot({ path: `${FOLDER}/stopped.png`, fullPage: true });
  warren("guest", "start", "cnx7");
  await until(page, (selector) => document.querySelector(selector).classList.contains("good"), box("guest:cnx7"));

  // A forward more: the picture is another one, without being loaded anew.
  await page.evaluate(() => { window.same = true; });
  warren("forward", "add", "22299/tcp", "cnx7:22");
  await page.locator(box("forward:* 22299/tcp")).waitFor();
  assert.equal(await page.evaluate(() => window.same), true);

  // In the dark, and on a phone.
  const light_of = async (selector, property) => (await colour(page, selector, property)).reduce((sum, each) => sum + each, 0);
  const day = await light_of("body", "backgroundColor");
  await page.emulateMedia({ colorScheme: "dark" });
  assert.ok(day > 600 && (await light_of("body", "backgroundColor")) < 150);
  assert.ok((await light_of(`${box("guest:cnx6")} .box`, "fill")) < 200);
  assert.ok((await light_of(`${box("guest:cnx6")} .name`, "fill")) > 600);
  await page.setViewportSize({ width: 360, height: 740 });
  assert.equal(await page.locator(".wide svg").isVisible(), false);
  assert.ok(await page.locator('.narrow [data-key="guest:cnx6"]').isVisible());
  const [inside, room] = await page.evaluate(() => [document.documentElement.scrollWidth, window.innerWidth]);
  assert.ok(inside <= room, `${inside} in ${room}`);
  const size = await page.$eval('.narrow [data-key="guest:cnx6"] .name', (name) => name.getBoundingClientRect().height);
  assert.ok(size > 12, `a name is ${size} tall`);
  await page.screenshot({ path: `${FOLDER}/phone.png`, fullPage: true });

  assert.deepEqual(wrong, []);
  await browser.close();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
