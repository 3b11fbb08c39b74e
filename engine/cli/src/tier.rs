//! `cofferdam build --print-tier`: what a build needs of the machine, and whether it is there.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::sync::Arc;

use cofferdam_build::{Config, Engine, Need, Privilege, Request, Tier};
use cofferdam_session::LocalSession;

use crate::error::{Error, exit, exit_code};
use crate::progress::text::{Colours, clean};
use crate::report::{self, Style};
use crate::run::tell;

/// Prints it, and gives the exit code.
///
/// # Errors
/// When the engine cannot be opened, or nothing can be printed.
pub async fn print(
    config: Config,
    request: Request,
    session: LocalSession,
    style: Style,
) -> Result<u8, Error> {
    let privilege = config.privilege.clone();
    let engine = Engine::open(config)?;
    let result = engine.needs(request, Arc::new(session), Arc::new(|_| {})).await;
    let shared = match privilege {
        Privilege::Root => engine.shared_user_namespace().await?,
        Privilege::Namespace | Privilege::None { .. } => None,
    };
    engine.shutdown().await;
    match result {
        Ok(needs) => {
            let mut text = describe(&needs, &privilege);
            if let Some(why) = shared.filter(|_| needs.iter().any(|need| need.tier > Tier::Wasm)) {
                let _ = writeln!(text, "but steps have no user namespace of their own: {why}");
            }
            io::stdout().write_all(text.as_bytes()).map_err(|source| Error::File {
                action: "write the answer to",
                path: "/dev/stdout".into(),
                source,
            })?;
            Ok(exit::OK)
        }
        Err(failure) => {
            tell(&report::failure(&failure, &Default::default(), style));
            Ok(exit_code(failure.error.kind()))
        }
    }
}

/// The tier in the first line, then why, then whether this user has it.
fn describe(needs: &[Need], privilege: &Privilege) -> String {
    let tier = needs.iter().map(|need| need.tier).max().unwrap_or_default();
    let mut text = format!("{}\n\n", tier.name());
    for need in needs {
        let place = need.place.as_ref().map(|(file, line)| format!("{file}:{line}: "));
        let step = clean(&format!("{}{}", place.unwrap_or_default(), need.step), Colours::Remove);
        let _ = writeln!(text, "{step}\n    {}: {}", need.tier.name(), need.why);
    }
    if needs.is_empty() {
        text += "no RUN: WebAssembly does all of it\n";
    }
    let answer = match needs.iter().find_map(|need| need.lacking.as_ref()) {
        Some(lacking) => format!("it does not build here: {lacking}"),
        None => answer(tier, privilege),
    };
    let _ = writeln!(text, "\n{answer}");
    text
}

/// Whether a user has what a build needs.
fn answer(tier: Tier, privilege: &Privilege) -> String {
    match (tier, privilege) {
        (Tier::Wasm, _) => "it builds here, and wherever the program starts".to_owned(),
        (_, Privilege::Root) => "it builds here: you are root".to_owned(),
        (Tier::UserNamespace, Privilege::Namespace) => {
            "it builds here: you can have a user namespace".to_owned()
        }
        (Tier::UserNamespace, Privilege::None { why }) => format!("it does not build here: {why}"),
        (Tier::Root, _) => "it does not build here: you are not root".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn the_tier_comes_first_and_then_why() {
        let need = |line, step: &str, tier, why| Need {
            step: step.to_owned(),
            place: Some(("Dockerfile".to_owned(), line)),
            tier,
            why,
            lacking: None,
        };
        let needs = [
            need(2, "[1/2] RUN a", Tier::Wasm, "wasm"),
            need(3, "[2/2] RUN b\u{1b}[2J", Tier::UserNamespace, "kernel"),
        ];
        expect![[r#"
            user namespace

            Dockerfile:2: [1/2] RUN a
                wasm: wasm
            Dockerfile:3: [2/2] RUN b
                user namespace: kernel

            it does not build here: no ids
        "#]]
        .assert_eq(&describe(&needs, &Privilege::None { why: "no ids".to_owned() }));
        expect![[r#"
            wasm

            no RUN: WebAssembly does all of it

            it builds here, and wherever the program starts
        "#]]
        .assert_eq(&describe(&[], &Privilege::Root));
        let need_root = answer(Tier::Root, &Privilege::Namespace);
        assert_eq!(need_root, "it does not build here: you are not root");
    }
}
