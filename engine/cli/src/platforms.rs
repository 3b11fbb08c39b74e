//! The command `cofferdam platforms`: what this machine can run, and how.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use cofferdam_build::{How, INSTALL_QEMU, Means, Missing, Runnable, platforms};
use serde_json::{Value, json};

use crate::args::Format;
use crate::config::{self, Settings};
use crate::error::Error;
use crate::root;

/// Runs the command.
///
/// # Errors
/// When the configuration cannot be read, or nobody takes the answer.
pub fn show(format: Format, file: Option<&Path>, qemu_dir: Option<PathBuf>) -> Result<(), Error> {
    let env = |name: &str| std::env::var_os(name);
    let settings = config::apply(file, &env, Settings::default())?;
    let found = platforms(root::qemu_directories(qemu_dir.or(settings.qemu_dir), &env));
    let text = match format {
        Format::Text => text(&found),
        Format::Json => {
            let found: Vec<Value> = found.iter().map(to_json).collect();
            format!("{:#}\n", json!({ "platforms": found }))
        }
    };
    io::stdout().write_all(text.as_bytes()).map_err(|source| Error::File {
        action: "write the platforms to",
        path: "/dev/stdout".into(),
        source,
    })
}

fn text(found: &[Runnable]) -> String {
    let width = found.iter().map(|one| one.platform.to_string().len()).max().unwrap_or(0);
    let line = |platform: &str, how: &str| format!("{platform:width$}  {how}\n");
    let mut text = line("PLATFORM", "STEPS RUN");
    for Runnable { platform, how } in found {
        text += &line(&platform.to_string(), &describe(how));
    }
    let missing = |one: &Runnable| matches!(one.how, How::Not(Missing::Emulator { .. }));
    if found.iter().any(missing) {
        text += &format!(
            "\nThose that are missing need QEMU's user-mode emulators: {INSTALL_QEMU}\n\
             or, where they are elsewhere: --qemu-dir DIR\n"
        );
    }
    text
}

fn describe(how: &How) -> String {
    match how {
        How::Process(Means::Native) => "natively".into(),
        How::Process(Means::In32Bits) => "natively, in 32 bits".into(),
        How::Process(Means::Qemu { program, version }) => {
            format!("with QEMU {version}: {}", program.display())
        }
        How::Process(Means::Handler { name, interpreter }) => {
            format!("with the host's binfmt_misc handler {name}: {interpreter}")
        }
        How::Wasmtime => "in Wasmtime".into(),
        How::Not(Missing::Emulator { names, rejected, .. }) => match rejected.as_slice() {
            [] => format!("not: no {}", names.first().map_or("emulator", String::as_str)),
            [one, ..] => format!("not: {}: {}", one.program.display(), one.reason),
        },
        How::Not(missing) => format!("not: {missing}"),
    }
}

fn to_json(Runnable { platform, how }: &Runnable) -> Value {
    let mut value = match how {
        How::Process(Means::Native) => json!({ "how": "native" }),
        How::Process(Means::In32Bits) => json!({ "how": "native", "bits": 32 }),
        How::Process(Means::Qemu { program, version }) => {
            json!({ "how": "qemu", "program": program, "version": version })
        }
        How::Process(Means::Handler { name, interpreter }) => {
            json!({ "how": "host-binfmt", "handler": name, "program": interpreter })
        }
        How::Wasmtime => json!({ "how": "wasmtime" }),
        How::Not(missing) => json!({ "how": "none", "missing": missing.to_string() }),
    };
    value["platform"] = platform.to_string().into();
    value
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn each_platform_has_a_line() {
        let one =
            |platform: &str, how| Runnable { platform: platform.parse().expect("a platform"), how };
        let missing = Missing::Emulator {
            names: vec!["qemu-s390x-static".into(), "qemu-s390x".into()],
            directories: vec!["/usr/bin".into()],
            rejected: Vec::new(),
        };
        let (program, version) = ("/usr/bin/qemu-aarch64-static".into(), "7.2.22 (Debian)".into());
        let found = [
            one("linux/amd64", How::Process(Means::Native)),
            one("linux/386", How::Process(Means::In32Bits)),
            one("linux/arm64", How::Process(Means::Qemu { program, version })),
            one("linux/s390x", How::Not(missing)),
            one("wasi/wasm", How::Wasmtime),
        ];
        expect![[r#"
            PLATFORM     STEPS RUN
            linux/amd64  natively
            linux/386    natively, in 32 bits
            linux/arm64  with QEMU 7.2.22 (Debian): /usr/bin/qemu-aarch64-static
            linux/s390x  not: no qemu-s390x-static
            wasi/wasm    in Wasmtime

            Those that are missing need QEMU's user-mode emulators: apt-get install qemu-user-static
            or, where they are elsewhere: --qemu-dir DIR
        "#]]
        .assert_eq(&text(&found));
        expect![[r#"{"how":"qemu","platform":"linux/arm64","program":"/usr/bin/qemu-aarch64-static","version":"7.2.22 (Debian)"}"#]]
            .assert_eq(&to_json(&found[2]).to_string());
        let missing = to_json(&found[3])["missing"].to_string();
        assert!(missing.contains("`qemu-s390x` in /usr/bin"), "{missing}");
        assert!(!text(&found[..3]).contains("missing"));
    }
}
