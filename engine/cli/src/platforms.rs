//! The command `cofferdam platforms`: what this machine can run, how, and with which walls.

use std::io::{self, Write as _};
use std::sync::Arc;

use cofferdam_build::{
    Config, Engine, How, INSTALL_QEMU, Means, Missing, NetworkKind, Privilege, Runnable,
    StepNetwork, platforms,
};
use serde_json::{Value, json};

use crate::args::Format;
use crate::devices;
use crate::error::{Error, exit};
use crate::report::Style;
use crate::run::{self, Setup};

/// Runs the command and gives its exit code.
pub fn run(format: Format, setup: Setup, style: Style) -> u8 {
    match run::configure(setup, &[]) {
        Ok(config) => run::block_on(show(format, config), style),
        Err(error) => run::tell_error(&error, style),
    }
}

async fn show(format: Format, config: Config) -> Result<u8, Error> {
    let found = platforms(config.qemu_directories.clone());
    let (devices, problems) = cofferdam_build::devices(&config.cdi);
    // Whoever can run no steps can see what others could.
    let steps = Steps::find(config).await;
    let text = match format {
        Format::Text => {
            text(&found) + &describe_steps(&steps) + &devices::describe(&devices, &problems)
        }
        Format::Json => {
            let found: Vec<Value> = found.iter().map(to_json).collect();
            let steps = steps_to_json(&steps);
            let devices: Vec<Value> = devices.iter().map(devices::to_json).collect();
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            let all = json!({
                "platforms": found, "linux-steps": steps,
                "devices": devices, "unreadable-devices": problems,
            });
            format!("{all:#}\n")
        }
    };
    io::stdout().write_all(text.as_bytes()).map_err(|source| Error::File {
        action: "write the platforms to",
        path: "/dev/stdout".into(),
        source,
    })?;
    Ok(exit::OK)
}

/// What is around the steps that run on this machine's kernel.
struct Steps {
    user_namespace: UserNamespace,
    /// Where the configured one cannot be had: why.
    network: Result<Arc<StepNetwork>, String>,
}

/// Which user namespace steps are in.
enum UserNamespace {
    /// One that is nobody else's.
    Own,
    /// That of the user, who is no other.
    Users,
    /// The one that the program is in.
    Programs {
        /// Why they have none of their own.
        why: String,
    },
}

impl Steps {
    /// Looks at what there is; if no steps can be run, the error says why.
    async fn find(config: Config) -> Result<Self, String> {
        let users = match &config.privilege {
            Privilege::Root => false,
            Privilege::Namespace => true,
            Privilege::None { why } => return Err(why.clone()),
        };
        let told = |error: cofferdam_build::Error| error.to_string();
        let engine = Engine::open(config).map_err(told)?;
        let user_namespace = match engine.shared_user_namespace().await.map_err(told)? {
            None => UserNamespace::Own,
            Some(_) if users => UserNamespace::Users,
            Some(why) => UserNamespace::Programs { why },
        };
        let network = engine.step_network().await.map_err(told);
        engine.shutdown().await;
        Ok(Self { user_namespace, network })
    }
}

fn describe_steps(steps: &Result<Steps, String>) -> String {
    let Steps { user_namespace, network } = match steps {
        Ok(steps) => steps,
        Err(why) => return format!("\nNo steps on Linux can be run here: {why}\n"),
    };
    let user_namespace = match user_namespace {
        UserNamespace::Own => "their own, in which root is nobody on the host".to_owned(),
        UserNamespace::Users => "the user's, with the user's subordinate ids".to_owned(),
        UserNamespace::Programs { why } => format!("none of their own: {why}"),
    };
    let (network, lacking) = match network {
        Ok(chosen) => (chosen.kind.to_string(), chosen.lacking.as_slice()),
        Err(why) => (format!("none: {why}"), [].as_slice()),
    };
    let mut text = format!("\nUSER NAMESPACE  {user_namespace}\nNETWORK         {network}\n");
    for why in lacking {
        text += &format!("                for lack of a better one: {why}\n");
    }
    text
}

fn steps_to_json(steps: &Result<Steps, String>) -> Value {
    let Steps { user_namespace, network } = match steps {
        Ok(steps) => steps,
        Err(why) => return json!({ "missing": why }),
    };
    let user_namespace = match user_namespace {
        UserNamespace::Own => json!({ "kind": "own" }),
        UserNamespace::Users => json!({ "kind": "user" }),
        UserNamespace::Programs { why } => json!({ "kind": "none", "missing": why }),
    };
    let network = match network {
        Ok(chosen) => {
            let mut value = match chosen.kind {
                NetworkKind::Nat(subnet) => json!({ "kind": "nat", "subnet": subnet.to_string() }),
                NetworkKind::Imitated(imitator) => json!({ "kind": imitator.name() }),
                NetworkKind::Host => json!({ "kind": "host" }),
                NetworkKind::None => json!({ "kind": "none" }),
            };
            value["lacking"] = json!(chosen.lacking);
            value
        }
        Err(why) => json!({ "missing": why }),
    };
    json!({ "user-namespace": user_namespace, "network": network })
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
    fn what_is_around_steps_and_why_it_is_no_better() {
        let check = |user_namespace, network, expected: expect_test::Expect| {
            let steps = Ok(Steps { user_namespace, network });
            expected.assert_eq(&format!("{}{}", describe_steps(&steps), steps_to_json(&steps)));
        };
        let subnet = "10.199.0.0/16".parse().expect("a subnet");
        let nat = StepNetwork { kind: NetworkKind::Nat(subnet), lacking: Vec::new() };
        check(
            UserNamespace::Own,
            Ok(nat.into()),
            expect![[r#"

                USER NAMESPACE  their own, in which root is nobody on the host
                NETWORK         addresses of 10.199.0.0/16 behind the host's
                {"network":{"kind":"nat","lacking":[],"subnet":"10.199.0.0/16"},"user-namespace":{"kind":"own"}}"#]],
        );
        let lacking = ["no nf_tables", "no slirp4netns"].map(str::to_owned).into();
        check(
            UserNamespace::Programs { why: "the kernel has none".into() },
            Ok(StepNetwork { kind: NetworkKind::Host, lacking }.into()),
            expect![[r#"

                USER NAMESPACE  none of their own: the kernel has none
                NETWORK         the host's network
                                for lack of a better one: no nf_tables
                                for lack of a better one: no slirp4netns
                {"network":{"kind":"host","lacking":["no nf_tables","no slirp4netns"]},"user-namespace":{"kind":"none","missing":"the kernel has none"}}"#]],
        );
        check(
            UserNamespace::Users,
            Err("looking for the program `pasta`: entity not found".into()),
            expect![[r#"

                USER NAMESPACE  the user's, with the user's subordinate ids
                NETWORK         none: looking for the program `pasta`: entity not found
                {"network":{"missing":"looking for the program `pasta`: entity not found"},"user-namespace":{"kind":"user"}}"#]],
        );
        let none = Err("/etc/subuid gives user `me` no range of ids".to_owned());
        assert!(describe_steps(&none).contains("No steps on Linux can be run here: /etc/subuid"));
        assert_eq!(steps_to_json(&none)["missing"], "/etc/subuid gives user `me` no range of ids");
    }

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
