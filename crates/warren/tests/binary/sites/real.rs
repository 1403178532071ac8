//! Clients that people have, through sites: WebSockets (python3-websockets) and gRPC (python3-grpcio), in clear text and
//! by TLS, both ways at once.

use std::fs;
use std::process::Stdio;

use super::serve;
use crate::common::lab;
use crate::support::{PATIENCE, Ran, Running, Scene, at, lines};

const NETWORK: &str = one_lan!(
    r#"[guest.a]
kind = "netns"
address = ["10.1.1.6"]
[[site]]
host = "ws.example.org"
to = ["a:8765"]
[[site]]
host = "wss.example.org"
to = ["a:8765"]
tls = "self-signed"
[[site]]
host = "grpc.example.org"
to = ["a:50051"]
upstream = "h2c"
[[site]]
host = "grpcs.example.org"
to = ["a:50051"]
upstream = "h2c"
tls = "self-signed"
"#
);

/// Both servers, in the guest.
const SERVERS: &str = r#"
import asyncio, grpc, websockets
from concurrent import futures

def both(requests, context):
    for request in requests:
        yield request[::-1]
    context.set_trailing_metadata((('told', 'in the trailers'),))

def one(request, context):
    if request == b'nothing':
        context.abort(grpc.StatusCode.NOT_FOUND, 'there is none')
    return request[::-1]

server = grpc.server(futures.ThreadPoolExecutor(8))
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler('t.Echo', {
    'Both': grpc.stream_stream_rpc_method_handler(both), 'One': grpc.unary_unary_rpc_method_handler(one)})])
assert server.add_insecure_port('0.0.0.0:50051')
server.start()

async def echo(socket, path):
    async for message in socket:
        await socket.send(message)

async def main():
    async with websockets.serve(echo, '0.0.0.0', 8765):
        print('ready', flush=True)
        await asyncio.Future()

asyncio.run(main())
"#;

/// Both clients, in the world. Each message is sent when the one before it is back: nothing waits for a whole body.
const CLIENTS: &str = r#"
import asyncio, grpc, ssl, sys, websockets
trust = sys.argv[1]

async def sockets():
    believed = ssl.create_default_context(cafile=trust)
    for name, port, more in [('ws', 80, {}), ('wss', 443, {'ssl': believed, 'server_hostname': 'wss.example.org'})]:
        uri = f'{name}://{name}.example.org/chat?x=1'
        async with websockets.connect(uri, host='203.0.113.2', port=port, **more) as socket:
            for message in ['hello', 'ä' * 1000, b'\0\1' * 100000]:
                await socket.send(message)
                assert await asyncio.wait_for(socket.recv(), 20) == message
            await asyncio.wait_for(await socket.ping(), 20)
            await socket.close(1000, 'enough')
            assert socket.close_code == 1000, socket.close_code
    try:
        async with websockets.connect('ws://nobody.example.org/', host='203.0.113.2', port=80):
            raise SystemExit('a socket to a host that is nobody\'s')
    except websockets.exceptions.InvalidStatusCode as e:
        assert e.status_code == 404, e
    try:
        more = {'ssl': ssl.create_default_context(), 'server_hostname': 'wss.example.org'}
        async with websockets.connect('wss://wss.example.org/', host='203.0.113.2', port=443, **more):
            raise SystemExit('a socket by TLS that nobody vouches for')
    except ssl.SSLCertVerificationError:
        pass

def calls(channel):
    one = channel.unary_unary('/t.Echo/One')
    answer, call = one.with_call(b'abc', timeout=20, wait_for_ready=True)
    assert answer == b'cba' and call.code() == grpc.StatusCode.OK
    try:
        one(b'nothing', timeout=20)
        raise SystemExit('no error came')
    except grpc.RpcError as e:
        assert (e.code(), e.details()) == (grpc.StatusCode.NOT_FOUND, 'there is none'), e
    import queue
    say = queue.Queue()
    heard = channel.stream_stream('/t.Echo/Both')(iter(say.get, None), timeout=20)
    for n in range(20):
        message = bytes([n, 1, 2]) * (1 + 3000 * (n % 3))
        say.put(message)
        assert next(heard) == message[::-1]
    say.put(None)
    assert list(heard) == [] and ('told', 'in the trailers') in [tuple(pair) for pair in heard.trailing_metadata()]

def grpcs():
    options = [('grpc.default_authority', 'grpc.example.org')]
    calls(grpc.insecure_channel('ipv4:203.0.113.2:80', options))
    believed = grpc.ssl_channel_credentials(open(trust, 'rb').read())
    options = [('grpc.ssl_target_name_override', 'grpcs.example.org'), ('grpc.default_authority', 'grpcs.example.org')]
    calls(grpc.secure_channel('ipv4:203.0.113.2:443', believed, options))
    options = [('grpc.default_authority', 'nobody.example.org')]
    try:
        grpc.insecure_channel('ipv4:203.0.113.2:80', options).unary_unary('/t.Echo/One')(b'x', timeout=20)
        raise SystemExit('an answer of a host that is nobody\'s')
    except grpc.RpcError as e:
        assert e.code() == grpc.StatusCode.UNIMPLEMENTED, e

asyncio.run(sockets())
grpcs()
print('all is well')
"#;

/// Debian's, whose modules they are.
const PYTHON: &str = "/usr/bin/python3";

#[test]
fn websockets_and_grpc_pass_in_clear_text_and_by_tls() {
    lab(|| {
        let scene = Scene::new();
        let _serving = serve(&scene, NETWORK);
        let mut servers = at("a", PYTHON);
        servers.args(["-c", SERVERS]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut running = Running::start(&mut servers);
        let said = lines(running.0.stdout.take().unwrap());
        assert_eq!(said.recv_timeout(PATIENCE).expect("python3-websockets and python3-grpcio are needed"), "ready");
        for host in ["ws", "grpc"] {
            // A guest that did not answer at first is asked again before it is believed to live.
            super::until_not("world", &format!("Host:{host}.example.org"), 503);
        }
        let trust = scene.folder().join("ca.pem");
        fs::write(&trust, scene.warren("ca").ends(0).out).unwrap();
        let told = Ran::of(at("world", PYTHON).args(["-c", CLIENTS]).arg(&trust)).ends(0).out;
        assert_eq!(told.trim(), "all is well");
        drop(running);
    });
}
