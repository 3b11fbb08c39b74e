//! What the program takes from its user and machine: the state directory, Docker's credentials,
//! the resolver's configuration. The environment comes in as a function, for the tests. The
//! configuration file is read in `config`.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use cofferdam_build::{GitConfig, LoadTargets, Privilege};
use cofferdam_registry::DockerConfig;

use crate::args::{self, MaxStorage};
use crate::error::Error;

/// The most that the state directory takes without being told: 100 GiB.
const DEFAULT_MAX_STORAGE: u64 = 100 << 30;

/// Looks up a variable of the environment.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The state directory: what the flag or the environment says, else the usual place.
///
/// # Errors
/// When there is no home directory to put it in, or a relative path is below no directory.
pub fn state_directory(
    flag: Option<PathBuf>,
    env: Environment<'_>,
    is_root: bool,
) -> Result<PathBuf, Error> {
    if let Some(root) = flag.or_else(|| path(env, "COFFERDAM_ROOT")) {
        // Steps are started elsewhere.
        return std::path::absolute(&root).map_err(|source| Error::File {
            action: "find the state directory",
            path: root,
            source,
        });
    }
    if is_root {
        return Ok("/var/lib/cofferdam".into());
    }
    // The base directory specification says to ignore relative paths.
    let data = path(env, "XDG_DATA_HOME").filter(|path| path.is_absolute());
    let data = data.or_else(|| Some(path(env, "HOME")?.join(".local/share")));
    data.map(|data| data.join("cofferdam")).ok_or_else(|| {
        Error::Configuration(
            "no place for the state directory: set --root, COFFERDAM_ROOT or HOME".into(),
        )
    })
}

/// Refuses a state directory that belongs to another user than the one who runs the program: what
/// either writes there, the other could neither use nor remove.
///
/// # Errors
/// When it is there and somebody else's.
pub fn check_owner(root: &Path, user: u32) -> Result<(), Error> {
    // Who may not even look is told by whatever is done next.
    let Ok(owner) = std::fs::metadata(root).map(|metadata| metadata.uid()) else { return Ok(()) };
    if owner == user {
        return Ok(());
    }
    let name = cofferdam_exec_linux::rootless::user_name;
    let (root, owner, user) = (root.to_owned(), name(owner), name(user));
    Err(Error::Owner { root, owner, user })
}

/// Makes an ordinary user's process root of a user namespace of its own, where that is possible.
/// Must be called before there is a second thread.
pub fn become_root(env: Environment<'_>) -> Privilege {
    let search = env("PATH").unwrap_or_default();
    let search = std::env::split_paths(&search).chain(["/usr/bin".into()]);
    match cofferdam_exec_linux::rootless::enter(search.filter(|path| path.is_absolute())) {
        Ok(()) => Privilege::Namespace,
        Err(error) => Privilege::None { why: error.to_string() },
    }
}

/// How much the state directory may take: what the flag or the environment says, else most of
/// the file system that it is on, and not more than anybody expects of a cache.
///
/// # Errors
/// When the environment says something else than bytes.
pub fn max_storage(
    flag: Option<MaxStorage>,
    env: Environment<'_>,
    root: &Path,
) -> Result<Option<u64>, Error> {
    let said = match (flag, env("COFFERDAM_MAX_STORAGE").filter(|text| !text.is_empty())) {
        (None, Some(text)) => Some(
            args::max_storage(&text.to_string_lossy())
                .map_err(|error| Error::Configuration(format!("COFFERDAM_MAX_STORAGE: {error}")))?,
        ),
        (flag, _) => flag,
    };
    Ok(match said {
        Some(MaxStorage::Unlimited) => None,
        Some(MaxStorage::Bytes(bytes)) => Some(bytes),
        None => {
            let place = root.ancestors().find_map(|place| rustix::fs::statvfs(place).ok());
            let size = |fs: rustix::fs::StatVfs| fs.f_blocks.saturating_mul(fs.f_frsize);
            place.map(|fs| (size(fs) / 5 * 4).min(DEFAULT_MAX_STORAGE)).filter(|bytes| *bytes > 0)
        }
    })
}

/// The user's credentials for registries, where Docker keeps them.
///
/// # Errors
/// When Docker's configuration cannot be read.
pub fn credentials(env: Environment<'_>) -> Result<DockerConfig, Error> {
    let directory = path(env, "DOCKER_CONFIG").or_else(|| Some(path(env, "HOME")?.join(".docker")));
    let config = match directory {
        Some(directory) => DockerConfig::load(&directory.join("config.json"))
            .map_err(|error| Error::Configuration(error.to_string()))?,
        None => DockerConfig::default(),
    };
    let search = env("PATH").unwrap_or_default();
    Ok(config.helper_dirs(std::env::split_paths(&search).filter(|path| path.is_absolute())))
}

/// A file of resolv.conf(5), if there is one.
///
/// # Errors
/// When it is there and cannot be read.
pub fn resolv_conf(path: &Path) -> Result<Option<String>, Error> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::Configuration(format!("cannot read {}: {error}", path.display()))),
    }
}

/// Where QEMU's emulators may be: only in the directory that was named, else where programs are, and
/// where distributions and people put them whatever PATH says.
pub fn qemu_directories(named: Option<PathBuf>, env: Environment<'_>) -> Vec<PathBuf> {
    if let Some(named) = named {
        // Steps are started elsewhere.
        return vec![std::path::absolute(&named).unwrap_or(named)];
    }
    let search = env("PATH").unwrap_or_default();
    let usual = ["/usr/local/bin", "/usr/bin"].map(PathBuf::from);
    std::env::split_paths(&search).filter(|path| path.is_absolute()).chain(usual).collect()
}

/// Where other engines may be that take images: those of Docker's and containerd's clients.
///
/// # Errors
/// When a variable is not UTF-8.
pub fn load_targets(env: Environment<'_>) -> Result<LoadTargets, Error> {
    let text = |name: &str| -> Result<Option<String>, Error> {
        let value = env(name).filter(|value| !value.is_empty());
        let value = value.map(OsString::into_string).transpose();
        value.map_err(|_| Error::Configuration(format!("{name} is not UTF-8")))
    };
    let runtime = path(env, "XDG_RUNTIME_DIR").filter(|path| path.is_absolute());
    let of_user = |name: &str| runtime.iter().map(|dir| dir.join(name)).collect::<Vec<_>>();
    let home = path(env, "HOME").map(|home| home.join(".docker/run/docker.sock"));
    let search = env("PATH").unwrap_or_default();
    Ok(LoadTargets {
        docker_host: text("DOCKER_HOST")?,
        docker_sockets: [vec!["/var/run/docker.sock".into()], of_user("docker.sock")]
            .concat()
            .into_iter()
            .chain(home)
            .collect(),
        containerd_socket: path(env, "CONTAINERD_ADDRESS")
            .unwrap_or_else(|| "/run/containerd/containerd.sock".into()),
        containerd_namespace: text("CONTAINERD_NAMESPACE")?.unwrap_or_else(|| "default".into()),
        podman_sockets: [of_user("podman/podman.sock"), vec!["/run/podman/podman.sock".into()]]
            .concat(),
        programs: std::env::split_paths(&search).filter(|path| path.is_absolute()).collect(),
    })
}

/// What git gets of the environment: where programs are, proxies, and whom to trust.
pub fn git(env: Environment<'_>) -> GitConfig {
    let proxies = ["http_proxy", "https_proxy", "all_proxy", "no_proxy"];
    let proxies = proxies.iter().flat_map(|name| [(*name).to_owned(), name.to_uppercase()]);
    let others = ["PATH", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "SSL_CERT_FILE", "SSL_CERT_DIR"];
    let names = others.iter().map(|name| (*name).to_owned()).chain(proxies);
    let own = env("HOME").map(|home| PathBuf::from(home).join(".ssh/known_hosts"));
    GitConfig {
        environment: names.filter_map(|name| Some((name.clone(), env(&name)?))).collect(),
        known_hosts: own.into_iter().chain(["/etc/ssh/ssh_known_hosts".into()]).collect(),
    }
}

/// A variable of the environment that names a file.
pub fn path(env: Environment<'_>, name: &str) -> Option<PathBuf> {
    env(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(flag: Option<&str>, env: &[(&str, &str)], is_root: bool, expected: &str) {
        let env = |name: &str| {
            env.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        };
        let found = match state_directory(flag.map(PathBuf::from), &env, is_root) {
            Ok(path) => path.display().to_string(),
            Err(error) => error.to_string(),
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn the_state_directory() {
        let home = ("HOME", "/home/me");
        check(Some("/flag"), &[("COFFERDAM_ROOT", "/env"), home], true, "/flag");
        check(None, &[("COFFERDAM_ROOT", "/env"), home], true, "/env");
        check(None, &[("COFFERDAM_ROOT", ""), home], true, "/var/lib/cofferdam");
        let here = std::env::current_dir().expect("the tests have one").join("here");
        check(Some("here"), &[], true, &here.display().to_string());
        check(None, &[home], false, "/home/me/.local/share/cofferdam");
        check(None, &[("XDG_DATA_HOME", "/data"), home], false, "/data/cofferdam");
        check(None, &[("XDG_DATA_HOME", "data"), home], false, "/home/me/.local/share/cofferdam");
        let homeless = "no place for the state directory: set --root, COFFERDAM_ROOT or HOME";
        check(None, &[], false, homeless);
    }

    #[test]
    fn qemu_is_looked_for_where_programs_are() {
        let path = |name: &str| (name == "PATH").then(|| OsString::from("/opt/bin:bin:/usr/bin"));
        let found = qemu_directories(None, &path);
        assert_eq!(
            found,
            ["/opt/bin", "/usr/bin", "/usr/local/bin", "/usr/bin"].map(PathBuf::from)
        );
        let found = qemu_directories(Some("/opt/qemu".into()), &path);
        assert_eq!(found, [PathBuf::from("/opt/qemu")]);
    }

    #[test]
    fn no_resolver_is_no_error() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("resolv.conf");
        assert_eq!(resolv_conf(&path).expect("missing is fine"), None);
        std::fs::write(&path, "nameserver 192.0.2.1\n").expect("written");
        let text = resolv_conf(&path).expect("readable");
        assert_eq!(text.as_deref(), Some("nameserver 192.0.2.1\n"));
    }

    #[test]
    fn broken_credentials_are_told() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(directory.path().join("config.json"), "{").expect("written");
        let env = |name: &str| (name == "DOCKER_CONFIG").then(|| directory.path().into());
        let error = credentials(&env).expect_err("the file is broken");
        assert!(matches!(error, Error::Configuration(_)), "{error}");
    }
}
