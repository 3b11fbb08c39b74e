//! The configuration file: where it is, what may stand in it, and what it makes of the settings of
//! the registries client, of the network of steps and of emulators. Its tables for registries and for
//! DNS are those of BuildKit's `buildkitd.toml`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cofferdam_build::{CdiConfig, DnsConfig, NetworkConfig, NetworkMode};
use cofferdam_registry::{ClientConfig, HostConfig, Mirror};
use serde::Deserialize;
use toml::Spanned;

use crate::error::Error;
use crate::root::{Environment, path};

/// The file of the whole machine.
const SYSTEM_FILE: &str = "/etc/cofferdam/config.toml";

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    registry: BTreeMap<Spanned<String>, Registry>,
    #[serde(default)]
    transfers: Transfers,
    #[serde(default)]
    dns: Dns,
    #[serde(default)]
    network: Network,
    #[serde(default)]
    platforms: Platforms,
    #[serde(default)]
    cdi: Cdi,
}

/// `[registry."host"]`, as BuildKit has it.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Registry {
    #[serde(default)]
    mirrors: Vec<Spanned<String>>,
    http: Option<bool>,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    ca: Vec<Spanned<PathBuf>>,
    #[serde(default)]
    keypair: Vec<Spanned<KeyPair>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyPair {
    key: Spanned<PathBuf>,
    cert: Spanned<PathBuf>,
}

/// `[transfers]`: how long and how often.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Transfers {
    concurrency: Option<Spanned<usize>>,
    attempts: Option<Spanned<u32>>,
    first_pause: Option<Spanned<Time>>,
    max_pause: Option<Spanned<Time>>,
    connect_timeout: Option<Spanned<Time>>,
    stall_timeout: Option<Spanned<Time>>,
    mirror_timeout: Option<Spanned<Time>>,
}

/// `[dns]`, as BuildKit has it.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Dns {
    #[serde(default)]
    nameservers: Vec<IpAddr>,
    #[serde(default)]
    options: Vec<Spanned<String>>,
    #[serde(default)]
    search_domains: Vec<Spanned<String>>,
}

/// `[network]`: what steps get that ask for no network by name.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Network {
    #[serde(default)]
    mode: Mode,
    subnet: Option<Spanned<String>>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    #[default]
    Auto,
    Nat,
    Slirp4netns,
    Pasta,
    Host,
    None,
}

impl From<Mode> for NetworkMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Auto => Self::Auto,
            Mode::Nat => Self::Nat,
            Mode::Slirp4netns => Self::Slirp4netns,
            Mode::Pasta => Self::Pasta,
            Mode::Host => Self::Host,
            Mode::None => Self::None,
        }
    }
}

/// `[platforms]`: what runs steps for others than the machine's own.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Platforms {
    qemu_dir: Option<PathBuf>,
}

/// `[cdi]`, as BuildKit has it.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Cdi {
    #[serde(default)]
    disabled: bool,
    spec_dirs: Option<Vec<PathBuf>>,
    #[serde(default)]
    auto_allowed: Vec<String>,
}

/// Whole seconds, or a number with a unit.
#[derive(Deserialize)]
#[serde(untagged)]
enum Time {
    Seconds(u64),
    Text(String),
}

/// What can be configured.
#[derive(Default)]
pub struct Settings {
    /// How registries are spoken to.
    pub registries: ClientConfig,
    /// How steps find names.
    pub dns: DnsConfig,
    /// What network steps get.
    pub network: NetworkConfig,
    /// Where QEMU is.
    pub qemu_dir: Option<PathBuf>,
    /// The machine's devices.
    pub cdi: CdiConfig,
}

/// The same with directories that flags name, which go before those of the file.
pub fn spec_dirs(configured: CdiConfig, named: Vec<PathBuf>) -> CdiConfig {
    match named.is_empty() {
        true => configured,
        false => CdiConfig { spec_dirs: named, ..configured },
    }
}

/// Reads the file that the flag names, else the user's or the machine's where there is one, and
/// changes `settings` as it says.
///
/// # Errors
/// When the file cannot be read or something in it is wrong; the message says where.
pub fn apply(
    flag: Option<&Path>,
    env: Environment<'_>,
    settings: Settings,
) -> Result<Settings, Error> {
    let candidates = match flag {
        Some(flag) => vec![flag.to_owned()],
        None => usual_places(env),
    };
    for file in candidates {
        match std::fs::read_to_string(&file) {
            Ok(text) => return Source { file: &file, text: &text }.apply(settings),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && flag.is_none() => {}
            Err(error) => {
                let message = format!("cannot read {}: {error}", file.display());
                return Err(Error::Configuration(message));
            }
        }
    }
    Ok(settings)
}

fn usual_places(env: Environment<'_>) -> Vec<PathBuf> {
    // The base directory specification says to ignore relative paths.
    let config = path(env, "XDG_CONFIG_HOME").filter(|path| path.is_absolute());
    let config = config.or_else(|| Some(path(env, "HOME")?.join(".config")));
    let of_user = config.map(|config| config.join("cofferdam/config.toml"));
    of_user.into_iter().chain([SYSTEM_FILE.into()]).collect()
}

struct Source<'a> {
    file: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    fn apply(&self, mut settings: Settings) -> Result<Settings, Error> {
        let file: File = toml::from_str(self.text).map_err(|error| {
            // The first line says it; those after it are of other keys that there could be.
            self.wrong(error.span().unwrap_or_default(), error.message())
        })?;
        let client = &mut settings.registries;
        for (host, registry) in file.registry {
            let mirror: Result<Mirror, _> = host.as_ref().parse();
            if !mirror.is_ok_and(|mirror| mirror.path.is_empty()) {
                let message =
                    format!("`{}` is not a registry: expected host[:port]", host.as_ref());
                return Err(self.wrong(host.span(), &message));
            }
            let config = self.host(registry)?;
            client.hosts.insert(host.into_inner(), config);
        }
        let transfers = file.transfers;
        let retry = &mut client.retry;
        if let Some(attempts) = transfers.attempts {
            retry.attempts = *self.at_least_one(&attempts)?;
        }
        if let Some(concurrency) = transfers.concurrency {
            client.concurrency = *self.at_least_one(&concurrency)?;
        }
        for (given, place) in [
            (transfers.first_pause, &mut retry.first_pause),
            (transfers.max_pause, &mut retry.total_pause),
            (transfers.connect_timeout, &mut client.connect_timeout),
            (transfers.stall_timeout, &mut client.stall_timeout),
            (transfers.mirror_timeout, &mut client.mirror_timeout),
        ] {
            if let Some(given) = given {
                *place = self.time(&given)?;
            }
        }
        settings.dns = self.dns(file.dns)?;
        settings.network.mode = file.network.mode.into();
        if let Some(subnet) = file.network.subnet {
            let parsed = subnet.as_ref().parse();
            let wrong = |error: cofferdam_build::ParseSubnetError| {
                self.wrong(subnet.span(), &error.to_string())
            };
            settings.network.subnet = Some(parsed.map_err(wrong)?);
        }
        if let Some(directory) = file.platforms.qemu_dir {
            settings.qemu_dir = Some(self.beside(&directory));
        }
        settings.cdi.disabled = file.cdi.disabled;
        settings.cdi.auto_allowed = file.cdi.auto_allowed;
        if let Some(directories) = file.cdi.spec_dirs {
            settings.cdi.spec_dirs = directories.iter().map(|path| self.beside(path)).collect();
        }
        Ok(settings)
    }

    fn dns(&self, dns: Dns) -> Result<DnsConfig, Error> {
        // They become words of a line of resolv.conf.
        let words = |words: Vec<Spanned<String>>| {
            let word = |word: Spanned<String>| match word.as_ref().split_whitespace().count() {
                1 => Ok(word.into_inner()),
                _ => Err(self.wrong(word.span(), "expected one word without spaces")),
            };
            words.into_iter().map(word).collect::<Result<Vec<_>, _>>()
        };
        Ok(DnsConfig {
            nameservers: dns.nameservers,
            options: words(dns.options)?,
            search_domains: words(dns.search_domains)?,
        })
    }

    /// A path that the file names; a relative one is beside it.
    fn beside(&self, path: &Path) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("")).join(path)
    }

    fn host(&self, registry: Registry) -> Result<HostConfig, Error> {
        let mut mirrors = Vec::new();
        for mirror in &registry.mirrors {
            let parsed = mirror.as_ref().parse();
            mirrors.push(parsed.map_err(|error: cofferdam_registry::ParseMirrorError| {
                self.wrong(mirror.span(), &error.to_string())
            })?);
        }
        let ca = registry.ca.iter().map(|ca| self.read(ca)).collect::<Result<_, _>>()?;
        let identity = match registry.keypair.as_slice() {
            [] => None,
            [pair] => {
                let mut pem = self.read(&pair.as_ref().key)?;
                pem.push(b'\n');
                pem.extend(self.read(&pair.as_ref().cert)?);
                Some(pem)
            }
            [_, second, ..] => {
                let message = "more than one `keypair` for a registry is not supported";
                return Err(self.wrong(second.span(), message));
            }
        };
        let (http, insecure) = (registry.http, registry.insecure);
        Ok(HostConfig { mirrors, http, insecure, ca, identity })
    }

    /// Reads a file that the configuration names.
    fn read(&self, path: &Spanned<PathBuf>) -> Result<Vec<u8>, Error> {
        let full = self.beside(path.as_ref());
        std::fs::read(&full).map_err(|error| {
            self.wrong(path.span(), &format!("cannot read {}: {error}", full.display()))
        })
    }

    fn at_least_one<'v, T: PartialEq + Default>(
        &self,
        value: &'v Spanned<T>,
    ) -> Result<&'v T, Error> {
        if *value.as_ref() == T::default() {
            return Err(self.wrong(value.span(), "expected a number of at least 1"));
        }
        Ok(value.as_ref())
    }

    fn time(&self, value: &Spanned<Time>) -> Result<Duration, Error> {
        let time = match value.as_ref() {
            Time::Seconds(seconds) => Some(Duration::from_secs(*seconds)),
            Time::Text(text) => duration(text),
        };
        time.filter(|time| !time.is_zero()).ok_or_else(|| {
            self.wrong(
                value.span(),
                "expected a time like 30 (seconds), \"500ms\", \"30s\", \"2m\"",
            )
        })
    }

    fn wrong(&self, span: Range<usize>, message: &str) -> Error {
        let before = &self.text.as_bytes()[..span.start.min(self.text.len())];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        Error::Configuration(format!("{}:{line}: {message}", self.file.display()))
    }
}

fn duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(number.checked_mul(60)?)),
        "h" => Some(Duration::from_secs(number.checked_mul(3600)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use expect_test::{Expect, expect};

    use super::*;

    fn check(text: &str, expected: Expect) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("config.toml");
        std::fs::write(directory.path().join("ca.pem"), "PEM").expect("written");
        std::fs::write(&file, text).expect("written");
        let told = match apply(Some(&file), &|_| None, Settings::default()) {
            Ok(Settings { registries, dns, network, qemu_dir, cdi }) => {
                let ClientConfig { concurrency, stall_timeout, retry, hosts, .. } = registries;
                let mut told = format!("{concurrency} {stall_timeout:?} {retry:?}\n");
                for (name, host) in hosts {
                    let HostConfig { mirrors, http, insecure, ca, identity } = host;
                    let mirrors: Vec<String> = mirrors.iter().map(Mirror::to_string).collect();
                    let (ca, identity) = (ca.len(), identity.map(String::from_utf8));
                    told += &format!("{name}: {mirrors:?} {http:?} {insecure} {ca} {identity:?}\n");
                }
                if dns != DnsConfig::default() {
                    told += &format!("{dns:?}\n");
                }
                let NetworkConfig { mode, subnet, .. } = network;
                if (mode, subnet) != (NetworkMode::Auto, None) {
                    told += &format!("{mode:?} {}\n", subnet.map_or("-".into(), |s| s.to_string()));
                }
                if let Some(directory) = qemu_dir {
                    told += &format!("QEMU in {}\n", directory.display());
                }
                if cdi != CdiConfig::default() {
                    told += &format!("{cdi:?}\n");
                }
                told
            }
            Err(error) => format!("{error}\n"),
        };
        let told = told.replace(&directory.path().display().to_string(), "DIR");
        expected.assert_eq(&told);
    }

    #[test]
    fn devices_are_configured_as_for_buildkit() {
        check(
            r#"
            [cdi]
              disabled = true
              specDirs = ["/opt/cdi", "beside"]
              autoAllowed = ["vendor.com/class", "vendor.com/other=all"]
            "#,
            expect![[r#"
                6 30s RetryPolicy { attempts: 5, first_pause: 300ms, total_pause: 60s }
                CdiConfig { disabled: true, spec_dirs: ["/opt/cdi", "DIR/beside"], auto_allowed: ["vendor.com/class", "vendor.com/other=all"] }
            "#]],
        );
        check(
            "[cdi]\nspecdirs = []",
            expect![[r#"
                DIR/config.toml:2: unknown field `specdirs`, expected one of `disabled`, `specDirs`, `autoAllowed`
            "#]],
        );
    }

    #[test]
    fn registries_are_configured_as_for_buildkit() {
        check(
            r#"
            [registry."docker.io"]
              mirrors = ["mirror.example:5000/proxy", "localhost:5001"]
              ca = ["ca.pem"]
              [[registry."docker.io".keypair]]
                key = "ca.pem"
                cert = "ca.pem"
            [registry."mirror.example:5000"]
              http = true
              insecure = true
            [transfers]
              attempts = 9
              stall-timeout = "500ms"
              max-pause = 120
            "#,
            expect![[r#"
                6 500ms RetryPolicy { attempts: 9, first_pause: 300ms, total_pause: 120s }
                docker.io: ["mirror.example:5000/proxy", "localhost:5001"] None false 1 Some(Ok("PEM\nPEM"))
                mirror.example:5000: [] Some(true) true 0 None
            "#]],
        );
    }

    #[test]
    fn the_network_of_steps_is_configured() {
        check(
            r#"
            [dns]
              nameservers = ["192.0.2.53", "2001:db8::53"]
              options = ["edns0"]
              searchDomains = ["a.example"]
            [network]
              mode = "nat"
              subnet = "10.4.0.0/20"
            "#,
            expect![[r#"
                6 30s RetryPolicy { attempts: 5, first_pause: 300ms, total_pause: 60s }
                DnsConfig { nameservers: [192.0.2.53, 2001:db8::53], options: ["edns0"], search_domains: ["a.example"] }
                Nat 10.4.0.0/20
            "#]],
        );
        check(
            "[dns]\noptions = [\"a b\"]\n",
            expect![[r#"
            DIR/config.toml:2: expected one word without spaces
        "#]],
        );
        check(
            "[dns]\nnameservers = [\"dns.example\"]\n",
            expect![[r#"
            DIR/config.toml:2: invalid IP address syntax
        "#]],
        );
        check(
            "[network]\nmode = \"bridge\"\n",
            expect![[r#"
            DIR/config.toml:2: unknown variant `bridge`, expected one of `auto`, `nat`, `slirp4netns`, `pasta`, `host`, `none`
        "#]],
        );
        check(
            "[network]\nsubnet = \"10.0.0.0\"\n",
            expect![[r#"
            DIR/config.toml:2: `10.0.0.0` is not a subnet for steps: expected ADDRESS/LENGTH, with a length of 8 to 28
        "#]],
        );
    }

    #[test]
    fn emulators_are_beside_the_file_or_elsewhere() {
        check(
            "[platforms]\nqemu-dir = \"qemu\"\n",
            expect![[r#"
                6 30s RetryPolicy { attempts: 5, first_pause: 300ms, total_pause: 60s }
                QEMU in DIR/qemu
            "#]],
        );
        check(
            "[platforms]\nqemu-dir = \"/opt/qemu\"\n",
            expect![[r#"
                6 30s RetryPolicy { attempts: 5, first_pause: 300ms, total_pause: 60s }
                QEMU in /opt/qemu
            "#]],
        );
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        check(
            "[registry.\"docker.io\"]\nmirror = []\n",
            expect![[r#"
            DIR/config.toml:2: unknown field `mirror`, expected one of `mirrors`, `http`, `insecure`, `ca`, `keypair`
        "#]],
        );
        check(
            "\n[worker]\n",
            expect![[r#"
            DIR/config.toml:2: unknown field `worker`, expected one of `registry`, `transfers`, `dns`, `network`, `platforms`, `cdi`
        "#]],
        );
        check(
            "\n\n[registry.\"docker.io\"]\nmirrors = [\"a\",\n\"https://b\"]\n",
            expect![[r#"
            DIR/config.toml:5: invalid mirror `https://b`: expected host[:port][/path], without a scheme
        "#]],
        );
        check(
            "[registry.\"https://docker.io\"]\nhttp = true\n",
            expect![[r#"
            DIR/config.toml:1: `https://docker.io` is not a registry: expected host[:port]
        "#]],
        );
        check(
            "[registry.\"docker.io\"]\nhttp = \"yes\"\n",
            expect![[r#"
            DIR/config.toml:2: invalid type: string "yes", expected a boolean
        "#]],
        );
        check(
            "[registry.\"docker.io\"]\nca = [\"no.pem\"]\n",
            expect![[r#"
            DIR/config.toml:2: cannot read DIR/no.pem: No such file or directory (os error 2)
        "#]],
        );
        check(
            "[transfers]\nattempts = 0\n",
            expect![[r#"
            DIR/config.toml:2: expected a number of at least 1
        "#]],
        );
        check(
            "[transfers]\nstall-timeout = \"1d\"\n",
            expect![[r#"
            DIR/config.toml:2: expected a time like 30 (seconds), "500ms", "30s", "2m"
        "#]],
        );
        check(
            "[transfers\n",
            expect![[r#"
            DIR/config.toml:1: unclosed table, expected `]`
        "#]],
        );
    }

    #[test]
    fn the_usual_places() {
        let check = |variables: &[(&str, &str)], expected: &[&str]| {
            let env = |name: &str| {
                let found = variables.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| OsString::from(value))
            };
            let expected: Vec<PathBuf> = expected.iter().map(PathBuf::from).collect();
            assert_eq!(usual_places(&env), expected);
        };
        let home = ("HOME", "/home/me");
        let system = "/etc/cofferdam/config.toml";
        check(&[], &[system]);
        check(&[home], &["/home/me/.config/cofferdam/config.toml", system]);
        check(&[("XDG_CONFIG_HOME", "/x"), home], &["/x/cofferdam/config.toml", system]);
        check(
            &[("XDG_CONFIG_HOME", "x"), home],
            &["/home/me/.config/cofferdam/config.toml", system],
        );
    }

    #[test]
    fn a_file_that_is_named_has_to_be_there() {
        let missing = Path::new("/nonexistent/config.toml");
        let error = apply(Some(missing), &|_| None, Settings::default()).err();
        let error = error.expect("it is not there").to_string();
        assert!(error.starts_with("cannot read /nonexistent/config.toml: "), "{error}");
    }
}
