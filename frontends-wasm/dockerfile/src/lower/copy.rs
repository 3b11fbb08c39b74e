//! COPY and ADD: each source is one copy action of one file op.

use cofferdam_sdk::{
    ActionInput, ActionKind, CopyAction, FileAction, Host, MkfileAction, OpMetadata, Ownership,
    Principal,
};

use super::{Lowering, names, remote, stage::State};
use crate::command::{Copy, Instruction};
use crate::error::Problem;
use crate::path;
use crate::words::Expander;

/// What all sources of one instruction share.
struct Shared {
    dest: String,
    owner: Option<Ownership>,
    mode: Option<u32>,
    mode_string: String,
    exclude: Vec<String>,
    timestamp: Option<i64>,
}

impl<H: Host> Lowering<'_, H> {
    pub(super) fn copy(
        &mut self,
        state: &mut State<H::Output>,
        instruction: &Instruction,
        copy: &Copy,
    ) -> Result<(), Problem> {
        let expander = self.expander;
        // A flag whose variables are not set is as if it were not there.
        let optional = |word: &Option<String>| -> Result<Option<String>, Problem> {
            let Some(word) = word else { return Ok(None) };
            let value = state.expand(expander, word)?;
            Ok(Some(value).filter(|value| !value.is_empty()))
        };
        let list = |words: &[String]| -> Result<Vec<String>, Problem> {
            words.iter().map(|word| state.expand(expander, word)).collect()
        };
        let (chown, chmod) = (optional(&copy.chown)?, optional(&copy.chmod)?);
        let checksum = optional(&copy.checksum)?;
        let (sources, exclude) = (list(&copy.sources)?, list(&copy.exclude)?);
        let dest_word = state.expand(expander, &copy.dest)?;
        let dest = path::destination(&state.cwd, &dest_word);
        let count = sources.len() + copy.heredocs.len();
        if count > 1 && !dest.ends_with('/') && !dest.ends_with("/.") {
            let expected = "a directory with `/` at its end, because there are several sources";
            return Err(Problem::invalid("destination", dest_word, expected));
        }
        if checksum.is_some() && count > 1 {
            return Err(Problem::invalid("--checksum", "", "exactly one source"));
        }
        let (mode, mode_string) = chmod.as_deref().map_or(Ok((None, String::new())), mode)?;
        let shared = Shared {
            dest,
            owner: chown.as_deref().map(ownership),
            mode,
            mode_string,
            exclude,
            timestamp: self.input.options.file_time(),
        };

        let shown = names::text(instruction, expander, &state.env);
        let name = state.names.name(&shown);
        let mut history = String::from(if copy.add { "ADD" } else { "COPY" });
        if copy.parents {
            history.push_str(" --parents");
        }
        for (flag, value) in [("chown", &chown), ("chmod", &chmod)] {
            if let Some(value) = value {
                history.push_str(&format!(" --{flag}={value}"));
            }
        }
        let mut copies = Vec::new();
        for (written, source) in copy.sources.iter().zip(&sources) {
            history.push_str(&format!(" {source}"));
            if let Some(source) = remote::parse(source, copy, checksum.as_deref())? {
                if !copy.add {
                    return Err(Problem::invalid(
                        "source of COPY",
                        &source.text,
                        "a path, not a URL",
                    ));
                }
                let mut metadata = state.metadata(self, instruction, name.clone());
                if source.unpackable {
                    let key = "com.docker.dockerfile.v1.command".to_owned();
                    metadata.description = vec![(key, String::new())];
                }
                let from =
                    self.host.source(&source.identifier, &source.attributes, None, &metadata)?;
                let mut action = shared.action(ActionInput::Output(from), source.path);
                action.attempt_unpack = copy.unpack.unwrap_or(false) && source.unpackable;
                copies.push(action);
            } else if checksum.is_some() {
                return Err(Problem::invalid("--checksum", source, "a source that is a URL"));
            } else {
                copies.push(self.local(state, instruction, copy, &shared, (written, source))?);
            }
        }
        for heredoc in &copy.heredocs {
            history.push_str(&format!(" <<{}", heredoc.name));
            let mut data = heredoc.content();
            if heredoc.expand {
                // The directive `escape` says nothing about the text of a file.
                let plain = Expander { keep_quotes: true, ..Expander::new('\\') };
                data = state.expand(plain, &data)?;
            }
            let path = path::inside(&heredoc.name);
            if matches!(path::base(&path), "" | "." | "..") || path.matches('/').count() > 1 {
                let expected = "that of a file, without a directory";
                return Err(Problem::invalid("name of a here-document", &heredoc.name, expected));
            }
            let mkfile = MkfileAction {
                path: path.clone(),
                mode: 0o644,
                data: data.into_bytes(),
                ..MkfileAction::default()
            };
            let action = FileAction::new(ActionInput::Scratch, ActionKind::Mkfile(mkfile));
            let metadata = OpMetadata::named("[internal] preparing inline document");
            let from = self.host.file(&[action], &metadata)?.pop();
            copies.push(shared.action(from.into(), path));
        }
        history.push_str(&format!(" {dest_word} # buildkit"));

        let metadata = state.metadata(self, instruction, name);
        state.output = match copy.link && chmod.is_none() {
            true => {
                let copied = self.host.file(&chain(None, copies), &metadata)?;
                let linked = state.names.name(&format!("LINK {shown}"));
                let metadata = state.metadata(self, instruction, linked);
                let layers: Vec<_> = state.output.iter().cloned().chain(copied).collect();
                self.host.merge(&layers, &metadata)?
            }
            false => self.host.file(&chain(state.output.clone(), copies), &metadata)?.pop(),
        };
        state.image.record(history, true);
        Ok(())
    }

    /// A copy from the context, a stage or an image.
    fn local(
        &mut self,
        state: &State<H::Output>,
        instruction: &Instruction,
        copy: &Copy,
        shared: &Shared,
        (written, source): (&str, &str),
    ) -> Result<CopyAction<H::Output>, Problem> {
        if source.is_empty() {
            let expected = "a path; a variable in it may not be set";
            return Err(Problem::invalid("source", source, expected));
        }
        let from = match &copy.from {
            Some(name) => self.source_tree(state.index, name)?,
            None => {
                if let Some(checks) = self.input.checks {
                    checks.takes(instruction, written, source);
                }
                Some(self.context(source)?)
            }
        };
        let (root, pattern) = match (copy.parents, source.split_once("/./")) {
            (false, _) => (source, None),
            (true, Some((root, pattern))) => (root, Some(pattern)),
            (true, None) => ("/", Some(source)),
        };
        let mut action = shared.action(from.into(), path::inside(root));
        if let Some(pattern) = pattern {
            let pattern = path::inside(pattern).trim_start_matches('/').to_owned();
            if !pattern.contains(['*', '?', '[']) {
                action.required_paths.push(pattern.clone());
            }
            action.include_patterns.push(pattern);
        }
        action.follow_symlink = true;
        action.dir_copy_contents = true;
        action.attempt_unpack = copy.unpack.unwrap_or(copy.add);
        action.allow_wildcard = true;
        action.allow_empty_wildcard = true;
        Ok(action)
    }
}

impl Shared {
    fn action<O>(&self, from: ActionInput<O>, source: String) -> CopyAction<O> {
        CopyAction {
            owner: self.owner.clone(),
            mode: self.mode,
            mode_string: self.mode_string.clone(),
            exclude_patterns: self.exclude.clone(),
            timestamp: self.timestamp,
            create_dest_path: true,
            ..CopyAction::new(from, source, self.dest.clone())
        }
    }
}

/// The copies one after the other; only the result of the last is an output.
fn chain<O>(base: Option<O>, copies: Vec<CopyAction<O>>) -> Vec<FileAction<O>> {
    let last = copies.len().saturating_sub(1);
    let mut base = Some(base);
    let action = |(index, copy): (usize, CopyAction<O>)| FileAction {
        input: match base.take() {
            Some(base) => base.into(),
            None => ActionInput::Action(index as u32 - 1),
        },
        kind: ActionKind::Copy(copy),
        has_output: index == last,
    };
    copies.into_iter().enumerate().map(action).collect()
}

/// Reads `user[:group]`, names or numbers.
pub(super) fn ownership(text: &str) -> Ownership {
    let principal = |text: &str| match text {
        "root" => Principal::Id(0),
        text => text.parse().map_or_else(|_| Principal::Name(text.into()), Principal::Id),
    };
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    Ownership { user: Some(principal(user)), group: group.map(principal) }
}

/// Reads `--chmod`: octal digits, or `chmod`'s symbolic form.
fn mode(text: &str) -> Result<(Option<u32>, String), Problem> {
    let expected = "octal digits up to 07777, or a symbolic mode like `u=rwX,go=rX`";
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 => Ok((Some(mode), String::new())),
        Err(_) if is_symbolic(text) => Ok((Some(0), text.into())),
        _ => Err(Problem::invalid("--chmod", text, expected)),
    }
}

fn is_symbolic(text: &str) -> bool {
    let clause = |clause: &str| {
        let rest = clause.trim_start_matches(['u', 'g', 'o', 'a']);
        rest.starts_with(['+', '-', '='])
            && rest.split(['+', '-', '=']).skip(1).all(|permissions| {
                matches!(permissions, "u" | "g" | "o")
                    || permissions.chars().all(|c| "rwxXst".contains(c))
            })
    };
    !text.is_empty() && text.split(',').all(clause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        assert_eq!(mode("0755"), Ok((Some(0o755), String::new())));
        for text in ["u=rwX,go=rX", "+x", "a-w+t", "g=u"] {
            assert_eq!(mode(text), Ok((Some(0), text.into())));
        }
        for text in ["", "888", "17777", "u+q", "x", "u=rw,"] {
            assert!(mode(text).is_err(), "{text}");
        }
    }
}
