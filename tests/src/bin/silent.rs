//! Listens on ports 443 and 8443, accepts, and never says a word.

use std::net::TcpListener;
use std::thread;

fn main() -> std::io::Result<()> {
    let open = |port| TcpListener::bind(("0.0.0.0", port));
    let listeners = [open(443)?, open(8443)?];
    let hold = |listener: TcpListener| {
        let held: Vec<_> = listener.incoming().collect();
        drop(held);
    };
    let threads = listeners.map(|listener| thread::spawn(move || hold(listener)));
    for thread in threads {
        let _ = thread.join();
    }
    Ok(())
}
