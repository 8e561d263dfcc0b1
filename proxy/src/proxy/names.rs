//! The addresses of external hosts, by DNS.

use std::net::IpAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolveHosts};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::failure::{Failure, Reason};
use crate::policy::is_special;

/// How long a name that does not exist is not asked for again, whatever its zone says: somebody may create it now.
const NEGATIVE_TTL: Duration = Duration::from_secs(10);

/// Asks the servers of this process's `/etc/resolv.conf`, from its own netns, and keeps each answer for its TTL.
#[derive(Debug, Default)]
pub struct Names {
    /// Made when it is first needed: most nodes never do, and a bad file must not keep an agent from starting.
    resolver: OnceCell<TokioResolver>,
}

impl Names {
    /// All addresses of `host` that may be dialled. The name is absolute: no search domain is added,
    /// and `/etc/hosts` is not read.
    ///
    /// # Errors
    /// `Dns` if it has none, or the answer takes longer than `limit`; `ForbiddenAddress` if it has no others.
    pub(super) async fn addresses(
        &self,
        host: &str,
        limit: Duration,
    ) -> Result<Vec<IpAddr>, Failure> {
        let resolver = self.resolver.get_or_try_init(async || resolver());
        let resolver = resolver.await.map_err(|error| {
            let detail = format!("the resolver's /etc/resolv.conf can't be used: {error}");
            Failure::new(Reason::Dns, detail)
        })?;
        let answer = match timeout(limit, resolver.lookup_ip(format!("{host}."))).await {
            Ok(answer) => answer.map_err(|error| explain(host, &error)),
            Err(_) => Err(explain(host, &NetError::Timeout)),
        };
        permitted(host, answer?.iter().collect())
    }
}

fn resolver() -> Result<TokioResolver, NetError> {
    let mut builder = TokioResolver::builder_tokio()?;
    let options = builder.options_mut();
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.use_hosts_file = ResolveHosts::Never;
    options.negative_max_ttl = Some(NEGATIVE_TTL);
    builder.build()
}

fn explain(host: &str, error: &NetError) -> Failure {
    let detail = match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => format!("there is no DNS name {host} (NXDOMAIN)"),
            ResponseCode::NoError => format!("{host} has no address in DNS (neither A nor AAAA)"),
            code => format!("{host} was not resolved: {code}"),
        },
        NetError::Timeout => format!("{host} was not resolved: no answer in time"),
        error => format!("{host} was not resolved: {error}"),
    };
    Failure::new(Reason::Dns, detail)
}

/// Whoever may annotate a Service must not thereby have pods dial themselves, our own redirect range, or the metadata
/// service of a cloud (169.254.169.254).
fn permitted(host: &str, found: Vec<IpAddr>) -> Result<Vec<IpAddr>, Failure> {
    let mut addresses: Vec<_> = found.iter().map(IpAddr::to_canonical).collect();
    addresses.retain(|ip| !is_special(*ip));
    match found.first() {
        Some(first) if addresses.is_empty() => {
            let detail = format!("{host} resolves to {first}, where no external host can be");
            Err(Failure::new(Reason::ForbiddenAddress, detail))
        }
        _ => Ok(addresses),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn special_addresses_are_left_out_or_refused() {
        let ips = |texts: &[&str]| texts.iter().map(|ip| ip.parse().unwrap()).collect();
        let special = [
            "127.0.0.1",
            "127.128.1.35",
            "169.254.169.254",
            "0.0.0.0",
            "224.0.0.1",
            "::",
            "::1",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
        ];
        for ip in special {
            let failure = permitted("a.example", ips(&[ip])).unwrap_err();
            assert_eq!(failure.reason, Reason::ForbiddenAddress, "{ip}");
            assert!(failure.detail.contains(ip), "{failure}");
            let mixed = permitted("a.example", ips(&[ip, "192.0.2.1"])).unwrap();
            assert_eq!(mixed, ips(&["192.0.2.1"]), "{ip}");
        }
        let all = ips(&["192.0.2.1", "10.0.0.1", "2001:db8::1"]);
        assert_eq!(permitted("a.example", all.clone()).unwrap(), all);
    }
}
