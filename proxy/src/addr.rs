//! The three addresses of a connection are three types: mixing them up would be our likeliest bug.

use std::fmt;
use std::net::SocketAddr;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub SocketAddr);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

address! {
    /// The client's own address, as the proxy's listener sees it.
    ClientAddr
}
address! {
    /// The address the client dialled, before our eBPF program replaced it.
    OriginalDst
}
address! {
    /// The address the proxy dials for it.
    UpstreamAddr
}
