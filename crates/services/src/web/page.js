// Asks this server for its state every now and then, and shows it: in the picture, in the tables, in the details of
// what is chosen. Reads alone, and writes text into the page, never markup.
"use strict";

const PAUSE = 2000;
// Whoever looks must not be what the server is busy with.
const SHARE = 8;

const page = {
  before: null, // the last state, and when it came
  things: new Map(), // what is told of each key
  chosen: null, // the key whose details are shown
  opener: null, // where the focus was then
  redrawn: 0,
};

const $ = (id) => document.getElementById(id);
const list = (value) => (Array.isArray(value) ? value : []);
const all = (selector) => document.querySelectorAll(selector);

// Words for numbers.

function scaled(number, units, step) {
  let value = number, unit = 0;
  while (value >= 999.5 && unit + 1 < units.length) { value /= step; unit += 1; }
  const shown = unit === 0 || value >= 99.5 ? Math.round(value) : value.toFixed(1);
  return units[unit] ? `${shown} ${units[unit]}` : String(shown);
}
const bytes = (number) => scaled(number || 0, ["B", "kB", "MB", "GB", "TB"], 1000);
const count = (number) => scaled(number || 0, ["", "k", "M", "G"], 1000).replace(" ", "");
const traffic = (counts) => `${bytes(counts.bytes)} in ${count(counts.packets)} packets`;
const many = (number, one, more) => `${count(number)} ${number === 1 ? one : more}`;

// What is told of each thing. A thing has a title, its health (good, bad, off), words for the places of its box, how
// much its cable carries, and rows of details: [what, words, whether they alarm].

class Past {
  constructor(before, now) {
    this.seconds = before ? (now - before.at) / 1000 : 0;
    this.totals = before ? before.totals : new Map();
    this.next = new Map();
  }
  // How much a counter has grown a second; 0 where that is not known.
  rate(name, total) {
    this.next.set(name, total);
    const before = this.totals.get(name);
    return before === undefined || total < before || this.seconds <= 0 ? 0 : (total - before) / this.seconds;
  }
}

function flows(thing, past, key, received, sent) {
  const down = past.rate(`${key} received`, received.bytes), up = past.rate(`${key} sent`, sent.bytes);
  thing.rate = down + up > 0 ? `↓ ${bytes(down)}/s ↑ ${bytes(up)}/s` : "idle";
  thing.flow = down + up;
  thing.rows.push(["received", traffic(received)], ["sent", traffic(sent)]);
}

function drifted(thing, drift) {
  if (list(drift).length === 0) return;
  thing.health = "bad";
  thing.state = "drifted";
  thing.rows.push(["drift", list(drift).join("\n"), true]);
}

function drops(thing, past, key, total) {
  if (total > 0) thing.note = `${count(total)} dropped`;
  // What is dropped at this moment alarms; what once was is told.
  if (past.rate(`${key} dropped`, total) > 0 && thing.health !== "off") thing.health = "bad";
}

function uplink(status, past) {
  const it = status.uplink, rows = [["public", list(status.public).join("\n") || "as the uplink has them"]];
  const thing = { title: it.name, what: "Uplink", health: it.there ? "good" : "bad", rows };
  thing.state = it.there ? "uplink" : "missing";
  flows(thing, past, "uplink", it.received, it.sent);
  const known = new Set([...status.lans, ...status.guests].flatMap((each) => list(each.drift)));
  const rest = list(status.drift).filter((line) => !known.has(line));
  drifted(thing, rest);
  if (rest.length > 0) thing.note = "rules or routes";
  if (list(status.conflicts).length > 0) {
    thing.health = "bad";
    thing.note = "a conflict";
    rows.push(["in the way", status.conflicts.join("\n"), true]);
  }
  return thing;
}

function lan(it, status, past) {
  const key = `lan:${it.bridge}`;
  const rows = [["mode", it.mode], ["addresses", list(it.addresses).join("\n")], ["domain", it.domain], ["MTU", it.mtu]];
  const thing = { title: it.bridge, what: "LAN", health: it.up ? "good" : "bad", state: it.up ? it.mode : "down", rows };
  rows.push(["state", it.up ? "up" : "down", !it.up]);
  flows(thing, past, key, it.received, it.sent);
  rows.push(["connections", `${count(it.connections.begun)} begun, ${count(it.connections.taken)} taken`]);
  const { from, to } = it.dropped;
  rows.push(["dropped", `${count(from.packets)} from it, ${count(to.packets)} to it`, from.packets + to.packets > 0]);
  drops(thing, past, key, from.packets + to.packets);
  rows.push(["guests", status.guests.filter((guest) => guest.lan === it.bridge).map((guest) => guest.name).join(", ")]);
  drifted(thing, it.drift);
  return thing;
}

// An LXC guest is off unless it runs; of other kinds the cable alone is known.
function guestState(it) {
  if (it.container !== null && it.container !== undefined) return [it.container, it.container.startsWith("running")];
  if (it.plugged === false) return ["unplugged", false];
  return [it.plugged === true ? "plugged in" : it.kind, true];
}

function guest(it, status, past) {
  const key = `guest:${it.name}`;
  const [state, well] = guestState(it);
  const rows = [["kind", it.kind], ["state", state, !well], ["LAN", it.lan], ["addresses", list(it.addresses).join("\n")]];
  if (list(it.aliases).length > 0) rows.push(["also", it.aliases.join(", ")]);
  rows.push(["hardware", it.mac], ["port", it.port]);
  const thing = { title: it.name, what: "Guest", health: well ? "good" : "off", state: well ? it.kind : state, rows };
  flows(thing, past, key, it.received, it.sent);
  rows.push(["connections", `${count(it.connections.begun)} begun, ${count(it.connections.taken)} taken`]);
  let dropped = it.refused;
  if (it.refused > 0) rows.push(["refused", `${many(it.refused, "packet", "packets")} beyond ${it.max_connections} connections`, true]);
  for (const tried of list(it.tried).filter((tried) => tried.packets > 0)) {
    dropped += tried.packets;
    rows.push(["tried", `${tried.what}: ${count(tried.packets)}`, true]);
  }
  drops(thing, past, key, dropped);
  drifted(thing, it.drift);
  for (const forward of list(status.forwards).filter((forward) => forward.to.guest === it.name)) {
    rows.push(["reached by", forwardName(forward)]);
  }
  for (const site of list(status.sites)) {
    for (const to of list(site.to).filter((to) => to.guest === it.name)) {
      rows.push(["serves", `${site.hosts.join(", ")}${site.path === "/" ? "" : site.path} at port ${to.port}`]);
    }
  }
  return thing;
}

const forwardKey = (it) => `forward:${it.listen.address ?? "*"} ${it.listen.ports}/${it.listen.transport}`;
const forwardName = (it) => `${it.listen.address ? `${it.listen.address} ` : ""}${it.listen.ports}/${it.listen.transport}`;

function forward(it, past) {
  const key = forwardKey(it);
  const to = it.to.guest ? `${it.to.guest} (${it.to.addresses.join(", ")})` : it.to.addresses.join(", ");
  const rows = [["listens at", it.listen.address ?? "every public address"], ["port", `${it.listen.ports}/${it.listen.transport}`]];
  rows.push(["leads to", `${to}, port ${it.to.port}`]);
  rows.push(["connections", count(it.connections)], ["carried", traffic(it.carried)]);
  const thing = { title: forwardName(it), what: "Forward", health: "good", rows, to, carried: it.carried, taken: it.connections };
  thing.flow = past.rate(`${key} carried`, it.carried.bytes);
  return thing;
}

function site(it, nth, status, past) {
  const path = it.path === "/" ? "" : it.path;
  const title = `${it.hosts.join(", ")}${path}`;
  const on = list(status.services?.backends).filter((known) => list(it.to).some((to) => to.guest === known.guest && to.port === known.port));
  const dead = on.filter((backend) => !backend.alive);
  const to = list(it.to).map((each) => `${each.guest}:${each.port}`).join("\n") || it.redirect;
  const rows = [["leads to", to], ["TLS", typeof it.tls === "string" ? it.tls : "files"]];
  const thing = { title, what: "Site", health: dead.length > 0 ? "bad" : "good", rows, to };
  for (const backend of dead) rows.push(["does not answer", `${backend.guest}:${backend.port}`, true]);
  const requests = on.reduce((sum, backend) => sum + backend.requests, 0);
  rows.push(["requests", `${count(requests)} to its guests`]);
  if (it.closed) rows.push(["closed", "for maintenance", true]);
  const rate = past.rate(`site:${nth} requests`, requests);
  thing.flow = rate * 1000;
  thing.rate = rate > 0 ? `${scaled(rate, ["", "k", "M"], 1000)} requests/s` : it.closed ? "closed" : "idle";
  if (dead.length > 0) thing.note = `${dead.length} of ${on.length} dead`;
  return thing;
}

function socks(status, past) {
  const counts = status.services?.socks, rows = [["listens at", status.socks.listen.join("\n")]];
  rows.push(["enters", status.socks.lans ? status.socks.lans.join(", ") : "all LANs"]);
  const thing = { title: "SOCKS5", what: "Developers' door", health: "good", rows };
  if (counts) {
    rows.push(["streams", `${count(counts.open)} open, ${count(counts.connected)} so far`]);
    rows.push(["carried", `${bytes(counts.sent)} in, ${bytes(counts.received)} out`]);
    rows.push(["refused", count(counts.refused), counts.refused > 0]);
    const rate = past.rate("socks", counts.sent + counts.received);
    thing.rate = `${count(counts.open)} open${rate > 0 ? `, ${bytes(rate)}/s` : ""}`;
    thing.flow = rate;
  }
  return thing;
}

function things(status, past) {
  const found = new Map();
  if (!status.up) return found;
  const world = uplink(status, past);
  found.set("uplink", world);
  found.set("world", { title: "The world", what: "World", health: "good", rows: [["reaches", `this server at ${world.rows[0][1]}`]] });
  for (const it of list(status.lans)) found.set(`lan:${it.bridge}`, lan(it, status, past));
  for (const it of list(status.guests)) found.set(`guest:${it.name}`, guest(it, status, past));
  for (const it of list(status.forwards)) found.set(forwardKey(it), forward(it, past));
  list(status.sites).forEach((it, nth) => found.set(`site:${nth}`, site(it, nth, status, past)));
  if (status.socks) found.set("socks", socks(status, past));
  return found;
}

// The picture.

const HEALTH = ["good", "bad", "off"];
const FLOWS = ["flow1", "flow2", "flow3", "flow4"];

function level(rate) {
  return rate < 1 ? 0 : rate < 1e4 ? 1 : rate < 1e6 ? 2 : rate < 3e7 ? 3 : 4;
}

function only(element, names, name) {
  for (const each of names) element.classList.toggle(each, each === name);
}

function write(element, words) {
  if (element.textContent !== words) element.textContent = words;
}

function paint() {
  for (const node of all("[data-key]")) {
    const thing = page.things.get(node.dataset.key);
    only(node, HEALTH, thing ? thing.health : "");
    for (const slot of node.querySelectorAll(":scope > [data-slot]")) {
      const words = thing?.[slot.dataset.slot];
      if (words !== undefined || slot.dataset.slot !== "state") write(slot, words ?? "");
    }
    node.classList.toggle("chosen", node.dataset.key === page.chosen);
    name(node, thing);
  }
  for (const cable of all("[data-line]")) {
    const thing = page.things.get(cable.dataset.line);
    only(cable, FLOWS, thing ? FLOWS[level(thing.flow ?? 0) - 1] : "");
    cable.classList.toggle("bad", Boolean(thing) && thing.health !== "good");
  }
}

// What a screen reader says of a box: what it always said, and its health where that is not good.
function name(node, thing) {
  node.dataset.label ??= node.getAttribute("aria-label");
  const ill = thing && thing.health !== "good" ? `; ${thing.state ?? "not well"}${thing.note ? `, ${thing.note}` : ""}` : "";
  const words = node.dataset.label + ill;
  if (node.getAttribute("aria-label") !== words) node.setAttribute("aria-label", words);
}

// After an `up` the network is another one: its picture is fetched anew, and the focus stays where it was.
async function redraw(status) {
  const drawn = new Set([...all("[data-key]")].map((node) => node.dataset.key));
  const known = new Set(page.things.keys());
  // Of very many forwards some are only counted.
  const missing = [...known].some((key) => !drawn.has(key) && !(key.startsWith("forward:") && drawn.has("more")));
  const surplus = [...drawn].some((key) => /^(lan|guest|forward|site):/.test(key) && !known.has(key));
  if (!status.up || !(missing || surplus) || Date.now() - page.redrawn < 5000) return;
  page.redrawn = Date.now();
  const response = await fetch("/", { cache: "no-store" });
  if (!response.ok) return;
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html").getElementById("picture");
  if (!fresh) return;
  const focused = document.activeElement?.dataset?.key;
  $("picture").replaceChildren(...fresh.childNodes);
  prepare();
  if (focused) visible(focused)?.focus();
}

// Ways in are reached by the arrow keys, and by the details of their guests: so many stops would be too many.
function prepare() {
  for (const way of all(".map .way")) way.setAttribute("tabindex", "-1");
  for (const node of all(".map .node")) node.setAttribute("aria-controls", "details");
}

const shown = (element) => element.getClientRects().length > 0;
const visible = (key) => [...all(".map .node")].find((node) => node.dataset.key === key && shown(node));

// The tables.

const TABLES = [
  ["LANs", /^lan:/, ["LAN", "state", "addresses", "received", "sent", "dropped"]],
  ["Guests", /^guest:/, ["Guest", "state", "LAN", "addresses", "received", "sent", "connections"]],
  ["Forwards", /^forward:/, ["Forward", "leads to", "connections", "carried"]],
  ["Sites", /^site:/, ["Site", "leads to", "TLS", "requests"]],
];
const FIGURES = new Set(["received", "sent", "connections", "carried", "requests", "dropped"]);

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function tabulate() {
  for (const [title, keys, columns] of TABLES) {
    const rows = [...page.things].filter(([key]) => keys.test(key));
    const id = `table-${title.toLowerCase()}`;
    let table = $(id);
    if (rows.length === 0) { table?.remove(); continue; }
    if (!table) {
      const heads = columns.map((column) => element("th", { scope: "col", role: "columnheader" }, column));
      table = element("table", { id, role: "table" }, element("caption", {}, title),
        element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...heads)), element("tbody", { role: "rowgroup" }));
      $("tables").append(table);
    }
    fill(table.tBodies[0], rows, columns);
  }
}

function fill(body, rows, columns) {
  const known = new Map([...body.rows].map((row) => [row.dataset.row, row]));
  rows.forEach(([key, thing], nth) => {
    const row = known.get(key) ?? blank(key, columns);
    known.delete(key);
    write(row.cells[0].firstChild, thing.title);
    columns.slice(1).forEach((column, at) => {
      const found = thing.rows.find(([what]) => what === column), cell = row.cells[at + 1];
      write(cell, found ? String(found[1]) : "");
      cell.classList.toggle("alarm", Boolean(found?.[2]));
    });
    if (body.rows[nth] !== row) body.insertBefore(row, body.rows[nth] ?? null);
  });
  for (const row of known.values()) row.remove();
}

function blank(key, columns) {
  const cells = columns.slice(1).map((column) => element("td", { role: "cell", "data-label": column, class: FIGURES.has(column) ? "figure" : "" }));
  const button = element("button", { type: "button", "data-open": key });
  return element("tr", { role: "row", "data-row": key }, element("th", { scope: "row", role: "rowheader" }, button), ...cells);
}

// Details.

function open(key, opener) {
  if (!page.things.has(key)) return;
  page.chosen = key;
  page.opener = opener;
  detail();
  $("details").hidden = false;
  $("details-title").focus();
  paint();
}

function close() {
  if ($("details").hidden) return;
  $("details").hidden = true;
  const key = page.chosen, opener = page.opener;
  page.chosen = page.opener = null;
  paint();
  (opener?.isConnected ? opener : visible(key))?.focus();
}

function detail() {
  const thing = page.things.get(page.chosen);
  if (!thing) return close();
  write($("details-title"), `${thing.what} ${thing.title}`);
  const rows = thing.rows.filter(([, words]) => words !== undefined && words !== "");
  const box = $("details-list");
  if (box.children.length !== rows.length * 2) box.replaceChildren(...rows.flatMap(() => [element("dt", {}), element("dd", {})]));
  rows.forEach(([what, words, alarm], nth) => {
    write(box.children[nth * 2], what);
    write(box.children[nth * 2 + 1], String(words));
    box.children[nth * 2 + 1].classList.toggle("alarm", Boolean(alarm));
  });
}

// The nearest box in the direction of an arrow key: beside this one, or beginning above or below it, so that ways in
// are below the guest in whose box they stand.
function neighbour(from, key) {
  const area = (node) => node.querySelector(".box").getBoundingClientRect();
  const here = area(from), across = key === "ArrowLeft" || key === "ArrowRight";
  const ahead = {
    ArrowLeft: (at) => here.left - at.right,
    ArrowRight: (at) => at.left - here.right,
    ArrowUp: (at) => here.top - at.top,
    ArrowDown: (at) => at.top - here.top,
  }[key];
  let best = null, least = Infinity;
  for (const node of from.ownerSVGElement.querySelectorAll(".node")) {
    const at = area(node), along = ahead(at);
    const gap = across ? Math.max(at.top - here.bottom, here.top - at.bottom) : Math.max(at.left - here.right, here.left - at.right);
    const far = along + 3 * Math.max(0, gap) + Math.abs(across ? at.top - here.top : at.left - here.left) / 10;
    if (node !== from && along > (across ? -4 : 1) && far < least) { best = node; least = far; }
  }
  return best;
}

function pressed(event) {
  if (event.key === "Escape") return close();
  const node = event.target.closest?.(".map .node");
  if (!node || event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    open(node.dataset.key, node);
  } else if (event.key.startsWith("Arrow")) {
    event.preventDefault();
    neighbour(node, event.key)?.focus();
  }
}

function clicked(event) {
  const node = event.target.closest?.(".map .node"), button = event.target.closest?.("[data-open]");
  if (node) open(node.dataset.key, node);
  else if (button) open(button.dataset.open, button);
  else if (event.target.id === "details-close") close();
}

// Which cables lead to what the pointer is on.
function hovered(event) {
  const key = event.target.closest?.(".map .node")?.dataset.key;
  for (const cable of all("[data-line]")) cable.classList.toggle("kin", Boolean(key) && cable.dataset.line === key);
}

// Health, in a line that is read out when it changes and not before.

function told(status) {
  if (!status.up) return ["bad", "No network of warren's is up here."];
  const ill = [...page.things].filter(([key, thing]) => thing.health !== "good" && /^(lan|guest|site):/.test(key));
  const words = ill.slice(0, 3).map(([, thing]) => `${thing.title}: ${thing.state && thing.what !== "Site" ? thing.state : thing.note ?? "not well"}`);
  if (ill.length > 3) words.push(`${ill.length - 3} more`);
  if (!status.ok) words.unshift("not as the file says");
  if (status.confirm_within !== null && status.confirm_within !== undefined) words.push("awaits `warren confirm`");
  const plugged = many(list(status.guests).length, "guest", "guests");
  return words.length > 0 ? ["bad", words.join("; ")] : ["good", `As the file says; ${plugged}, all well.`];
}

function health([sort, words]) {
  only($("health"), HEALTH, sort);
  write($("health"), words);
  document.title = sort === "bad" ? "! warren" : "warren";
}

function alarms(status) {
  const lines = [...list(status.drift), ...list(status.conflicts).map((line) => `in the way: ${line}`)];
  if (status.unfinished) lines.push("An earlier run was ended on its way: `warren up` or `warren down` puts it right.");
  $("alarms").hidden = lines.length === 0;
  const box = $("alarm-list");
  if ([...box.children].map((each) => each.textContent).join("\n") !== lines.join("\n")) {
    box.replaceChildren(...lines.map((line) => element("li", {}, line)));
  }
}

function show(status) {
  const now = performance.now(), past = new Past(page.before, now);
  page.things = things(status, past);
  page.before = { at: now, totals: past.next };
  paint();
  tabulate();
  alarms(status);
  health(told(status));
  if (!$("details").hidden) detail();
}

function lost(why) {
  document.body.classList.add("stale");
  health(["bad", why]);
}

async function look() {
  const begun = performance.now();
  try {
    const response = await fetch("/api/status", { cache: "no-store" });
    if (response.status === 401) lost("The token is not right any more: open the page with it again.");
    else if (!response.ok) lost("The server cannot find out its state at the moment.");
    else {
      const status = await response.json();
      document.body.classList.remove("stale");
      show(status);
      await redraw(status);
      paint();
    }
  } catch {
    lost("The server does not answer; trying again.");
  }
  setTimeout(next, Math.max(PAUSE, SHARE * (performance.now() - begun)));
}

// Nobody looks at a page that is not shown.
function next() {
  if (document.hidden) document.addEventListener("visibilitychange", next, { once: true });
  else look();
}

document.addEventListener("click", clicked);
document.addEventListener("keydown", pressed);
document.addEventListener("pointerover", hovered);
prepare();
look();
