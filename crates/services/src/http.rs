//! The web by name: sites, proxied to guests (HTTP/1.1 and HTTP/2, RFC 9110, 9112, 9113).
//!
//! What is decided without sockets is in `decide` (which site, which answer, which headers) and in
//! [`model::sites`]; `serve` has the listeners and connections, `proxy` a request's way to a guest and back, `upstream`
//! the guests with their health and idle connections, `direct` and `wire` the way of requests that have no body, `bodies`
//! what flows, and `pipes` how what is long flows past us.

pub mod answer;
pub mod bodies;
pub mod decide;
pub mod direct;
pub mod health;
pub mod io;
pub mod live;
pub mod pipes;
pub mod proxy;
pub mod record;
pub mod serve;
pub mod tls;
pub mod tls_accept;
pub mod tls_acme;
pub mod tls_ca;
pub mod tls_client;
pub mod tls_keys;
pub mod upstream;
pub mod wire;
