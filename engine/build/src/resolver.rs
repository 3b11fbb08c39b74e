//! How steps find names: the `/etc/resolv.conf` that they get in the host's network, and in one of
//! their own, where the loopback addresses are not the host's.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

/// What the user's configuration says, in BuildKit's names: `[dns]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsConfig {
    /// The name servers, instead of the host's.
    pub nameservers: Vec<IpAddr>,
    /// Options of resolv.conf(5), instead of the host's.
    pub options: Vec<String>,
    /// Domains in which names without a dot are looked up, instead of the host's.
    pub search_domains: Vec<String>,
}

/// What is known about name servers.
#[derive(Clone, Debug, Default)]
pub struct Resolver {
    /// What the user's configuration says.
    pub config: DnsConfig,
    /// The host's `/etc/resolv.conf`, if there is one.
    pub host: Option<String>,
    /// Another file that names the servers which a server on the host's loopback asks itself:
    /// systemd-resolved has one.
    pub upstream: Option<String>,
}

impl Resolver {
    /// Returns the file for steps in the host's network; `None` leaves the image's.
    pub fn for_host_network(&self) -> Option<String> {
        if self.config == DnsConfig::default() {
            return self.host.clone();
        }
        Some(self.file(self.host.as_deref().unwrap_or_default(), |_| true))
    }

    /// Returns the file for steps in a network of their own, which has IPv4 only.
    pub fn for_own_network(&self) -> String {
        self.file(self.reachable_source(), is_reachable)
    }

    /// Returns the name servers that a step in a network of its own asks.
    pub fn reachable_nameservers(&self) -> Vec<Ipv4Addr> {
        let reachable = |address: IpAddr| match address {
            IpAddr::V4(address) if is_reachable(address.into()) => Some(address),
            _ => None,
        };
        match &self.config.nameservers[..] {
            [] => nameservers(self.reachable_source()).filter_map(reachable).collect(),
            configured => configured.iter().copied().filter_map(reachable).collect(),
        }
    }

    /// The file whose name servers can be reached from a network of their own.
    fn reachable_source(&self) -> &str {
        let host = self.host.as_deref().unwrap_or_default();
        match &self.upstream {
            Some(upstream) if !nameservers(host).any(is_reachable) => upstream,
            _ => host,
        }
    }

    fn file(&self, source: &str, wanted: impl Fn(IpAddr) -> bool) -> String {
        let DnsConfig { nameservers, options, search_domains } = &self.config;
        let mut file = String::new();
        for line in source.lines() {
            let mut words = line.split_whitespace();
            let keep = match words.next() {
                Some("nameserver") => {
                    let address = words.next().and_then(parse);
                    nameservers.is_empty() && address.is_some_and(&wanted)
                }
                Some("options") => options.is_empty(),
                Some("search" | "domain") => search_domains.is_empty(),
                Some(word) => !word.starts_with(['#', ';']),
                None => false,
            };
            if keep {
                file += line;
                file.push('\n');
            }
        }
        for address in nameservers {
            _ = writeln!(file, "nameserver {address}");
        }
        for (keyword, words) in [("search", search_domains), ("options", options)] {
            if !words.is_empty() {
                _ = writeln!(file, "{keyword} {}", words.join(" "));
            }
        }
        file
    }
}

fn nameservers(file: &str) -> impl Iterator<Item = IpAddr> {
    file.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        words.next().filter(|word| *word == "nameserver")?;
        words.next().and_then(parse)
    })
}

/// An address, perhaps with the interface that it is reached by.
fn parse(word: &str) -> Option<IpAddr> {
    word.split('%').next()?.parse().ok()
}

fn is_reachable(address: IpAddr) -> bool {
    address.is_ipv4() && !address.is_loopback() && !address.is_unspecified()
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(resolver: &Resolver, expected: Expect) {
        let host = resolver.for_host_network();
        let own = resolver.for_own_network();
        let servers = resolver.reachable_nameservers();
        expected.assert_eq(&format!("host {host:?}\nown {own:?}\nasks {servers:?}\n"));
    }

    #[test]
    fn the_hosts_own_file_is_used_where_it_can_be() {
        let host = "# made by hand\nsearch a.example\nnameserver 192.0.2.53\nnameserver 127.0.0.1\n\
                    nameserver fe80::1%eth0\noptions ndots:2\n";
        let resolver = Resolver { host: Some(host.to_owned()), ..Resolver::default() };
        check(
            &resolver,
            expect![[r##"
                host Some("# made by hand\nsearch a.example\nnameserver 192.0.2.53\nnameserver 127.0.0.1\nnameserver fe80::1%eth0\noptions ndots:2\n")
                own "search a.example\nnameserver 192.0.2.53\noptions ndots:2\n"
                asks [192.0.2.53]
            "##]],
        );
    }

    #[test]
    fn a_server_on_the_hosts_loopback_is_passed_over() {
        let stub = "nameserver 127.0.0.53\noptions edns0 trust-ad\n".to_owned();
        let upstream = "nameserver 192.0.2.7\nsearch b.example\n".to_owned();
        let mut resolver =
            Resolver { host: Some(stub), upstream: Some(upstream), ..Resolver::default() };
        check(
            &resolver,
            expect![[r#"
                host Some("nameserver 127.0.0.53\noptions edns0 trust-ad\n")
                own "nameserver 192.0.2.7\nsearch b.example\n"
                asks [192.0.2.7]
            "#]],
        );
        resolver.upstream = None;
        check(
            &resolver,
            expect![[r#"
                host Some("nameserver 127.0.0.53\noptions edns0 trust-ad\n")
                own "options edns0 trust-ad\n"
                asks []
            "#]],
        );
    }

    #[test]
    fn the_configuration_goes_before_the_host() {
        let config = DnsConfig {
            nameservers: vec!["192.0.2.1".parse().expect("an address"), Ipv4Addr::LOCALHOST.into()],
            options: vec!["ndots:1".to_owned(), "timeout:1".to_owned()],
            search_domains: vec!["c.example".to_owned()],
        };
        let host = "nameserver 127.0.0.53\nsearch d.example\noptions edns0\nsortlist 1.2.3.4\n";
        check(
            &Resolver { config: config.clone(), host: Some(host.to_owned()), upstream: None },
            expect![[r#"
                host Some("sortlist 1.2.3.4\nnameserver 192.0.2.1\nnameserver 127.0.0.1\nsearch c.example\noptions ndots:1 timeout:1\n")
                own "sortlist 1.2.3.4\nnameserver 192.0.2.1\nnameserver 127.0.0.1\nsearch c.example\noptions ndots:1 timeout:1\n"
                asks [192.0.2.1]
            "#]],
        );
        check(
            &Resolver { config, ..Resolver::default() },
            expect![[r#"
                host Some("nameserver 192.0.2.1\nnameserver 127.0.0.1\nsearch c.example\noptions ndots:1 timeout:1\n")
                own "nameserver 192.0.2.1\nnameserver 127.0.0.1\nsearch c.example\noptions ndots:1 timeout:1\n"
                asks [192.0.2.1]
            "#]],
        );
    }
}
