//! The API from outside: a served cloud, the typed client, and requests as public clients send them.

mod faults;
mod life;
mod proxy;
mod restart;
mod support;
mod table;
mod versions;
mod walk;
mod wire;
