//! References to git repositories as ADD and build contexts take them, in all of BuildKit's forms:
//! `https://host/path.git#ref:subdir`, `…git?ref=…&subdir=…`, `git://…`, `ssh://…`,
//! `user@host:path`. Fetching is left to the host's git source.

use crate::error::Problem;

/// A repository, and what of it is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitReference {
    /// What git is given: the address without query and fragment.
    pub remote: String,
    /// Host and path, which every protocol has in common.
    pub place: String,
    /// Whether git reaches it over ssh.
    pub ssh: bool,
    /// Branch, tag or commit; empty is the default branch.
    pub reference: String,
    /// Directory in the repository; empty is all of it.
    pub subdirectory: String,
    /// The commit that the reference must be; empty is any.
    pub checksum: String,
    /// Whether `.git` is kept, where the query says so.
    pub keep_git_dir: Option<bool>,
    /// Whether submodules are fetched, where the query says so.
    pub submodules: Option<bool>,
    /// Whether files have the time of the commit.
    pub commit_time: bool,
    /// Whether the commit itself is fetched, though no branch or tag names it.
    pub fetch_by_commit: bool,
}

/// The keys of a query.
const KEYS: [&str; 10] = [
    "ref",
    "tag",
    "branch",
    "subdir",
    "checksum",
    "commit",
    "keep-git-dir",
    "submodules",
    "mtime",
    "fetch-by-commit",
];

impl GitReference {
    /// Reads a reference; `None` when the text does not name a repository.
    ///
    /// # Errors
    /// When it does, and its query or fragment is wrong.
    pub fn parse(text: &str) -> Result<Option<Self>, Problem> {
        if text.starts_with("./") || text.starts_with("../") {
            return Ok(None);
        }
        let (address, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (address, query) = address.split_once('?').unwrap_or((address, ""));
        let mut found = Self { remote: address.into(), ..Self::default() };
        found.place = match address.split_once("://") {
            Some((scheme, rest)) => {
                let scheme = scheme.to_ascii_lowercase();
                let is_git = match scheme.as_str() {
                    "http" | "https" => rest.ends_with(".git"),
                    "git" | "ssh" => true,
                    _ => false,
                };
                if !is_git {
                    return Ok(None);
                }
                found.ssh = scheme == "ssh";
                let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
                let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
                format!("{host}{}", crate::path::inside(path))
            }
            None => {
                let Some((host, path)) = ssh_place(address) else { return Ok(None) };
                found.ssh = true;
                format!("{host}{}", crate::path::inside(path))
            }
        };
        let (reference, subdirectory) = fragment.split_once(':').unwrap_or((fragment, ""));
        found.reference = reference.into();
        found.subdirectory = subdirectory.into();
        found.read_query(text, query)?;
        Ok(Some(found))
    }

    fn read_query(&mut self, text: &str, query: &str) -> Result<(), Problem> {
        let invalid = |expected: String| Problem::invalid("git source", text, expected);
        let mut seen: Vec<String> = Vec::new();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            if !KEYS.contains(&&*key) {
                let near = crate::suggest::nearest(&key, KEYS);
                let near = near.map(|near| format!(" (`{near}`?)")).unwrap_or_default();
                return Err(invalid(format!("no key `{key}`{near} in its query")));
            }
            if seen.iter().any(|known| known == &key) {
                return Err(invalid(format!("`{key}` only once in its query")));
            }
            seen.push(key.to_string());
            let flag = || match &*value {
                "" => Ok(true),
                text => crate::options::truth(text)
                    .ok_or_else(|| invalid(format!("`true` or `false` for `{key}`"))),
            };
            let once = |known: &mut String, value: String| {
                if !known.is_empty() && *known != value {
                    return Err(invalid(format!("one of `{known}` and `{value}`, not both")));
                }
                *known = value;
                Ok(())
            };
            let named = |prefix: &str| match value.starts_with(prefix) {
                true => value.to_string(),
                false => format!("{prefix}{value}"),
            };
            match &*key {
                "keep-git-dir" => self.keep_git_dir = Some(flag()?),
                "submodules" => self.submodules = Some(flag()?),
                "fetch-by-commit" => self.fetch_by_commit = flag()?,
                _ if value.is_empty() => {
                    return Err(invalid(format!("a value for `{key}` in its query")));
                }
                "mtime" => match &*value {
                    "checkout" | "commit" => self.commit_time = value == "commit",
                    _ => return Err(invalid("`checkout` or `commit` for `mtime`".into())),
                },
                "subdir" => once(&mut self.subdirectory, value.into_owned())?,
                "checksum" | "commit" => once(&mut self.checksum, value.into_owned())?,
                "tag" => once(&mut self.reference, named("refs/tags/"))?,
                "branch" => once(&mut self.reference, named("refs/heads/"))?,
                _ => once(&mut self.reference, value.into_owned())?,
            }
        }
        if self.reference.is_empty() {
            self.reference.clone_from(&self.checksum);
        }
        Ok(())
    }

    /// The identifier of the source op.
    pub fn identifier(&self) -> String {
        let mut identifier = format!("git://{}", self.place);
        if !self.reference.is_empty() || !self.subdirectory.is_empty() {
            identifier.push_str(&format!("#{}", self.reference));
        }
        if !self.subdirectory.is_empty() {
            identifier.push_str(&format!(":{}", self.subdirectory));
        }
        identifier
    }

    /// The attributes of the source op.
    pub fn attributes(&self) -> Vec<(String, String)> {
        let flag = |flag: bool| flag.then_some("true");
        [
            ("git.fullurl", Some(self.remote.as_str())),
            ("git.authheadersecret", Some("GIT_AUTH_HEADER")),
            ("git.authtokensecret", Some("GIT_AUTH_TOKEN")),
            ("git.mountsshsock", self.ssh.then_some("default")),
            ("git.keepgitdir", flag(self.keep_git_dir == Some(true))),
            ("git.checksum", Some(self.checksum.as_str()).filter(|sum| !sum.is_empty())),
            ("git.skipsubmodules", flag(self.submodules == Some(false))),
            ("git.mtime", self.commit_time.then_some("commit")),
            ("git.fetchbycommit", flag(self.fetch_by_commit)),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
        .collect()
    }
}

/// Host and path of `user@host:path`, as ssh and scp write it.
fn ssh_place(text: &str) -> Option<(&str, &str)> {
    let (user, rest) = text.split_once('@')?;
    let (host, path) = rest.split_once(':')?;
    let valid = |text: &str, more: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    (valid(user, "-_") && valid(host, "-.")).then_some((host, path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(text: &str, expected: Expect) {
        let shown = match GitReference::parse(text) {
            Ok(None) => "a path".into(),
            Ok(Some(git)) => {
                let hidden = ["git.authheadersecret", "git.authtokensecret"];
                let attributes = git.attributes().into_iter();
                let shown = attributes.filter(|(name, _)| !hidden.contains(&name.as_str()));
                let shown: Vec<_> = shown.map(|(name, value)| format!("{name}={value}")).collect();
                format!("{} {}", git.identifier(), shown.join(" "))
            }
            Err(problem) => problem.to_string(),
        };
        expected.assert_eq(&shown);
    }

    #[test]
    fn protocols_share_the_identifier() {
        check(
            "https://me:pw@h.example/a/b.git#v1:sub/dir",
            expect![[
                r#"git://h.example/a/b.git#v1:sub/dir git.fullurl=https://me:pw@h.example/a/b.git"#
            ]],
        );
        check(
            "git@h.example:a/b.git#v1",
            expect![[
                r#"git://h.example/a/b.git#v1 git.fullurl=git@h.example:a/b.git git.mountsshsock=default"#
            ]],
        );
        check(
            "ssh://git@h.example:22/a",
            expect![[
                r#"git://h.example:22/a git.fullurl=ssh://git@h.example:22/a git.mountsshsock=default"#
            ]],
        );
        check("git://h.example/a", expect!["git://h.example/a git.fullurl=git://h.example/a"]);
        check("https://h.example/a.tar", expect!["a path"]);
        check("./git@h.example:a", expect!["a path"]);
        check("file:///a.git", expect!["a path"]);
    }

    #[test]
    fn queries_say_the_same_and_more() {
        check(
            "https://h.example/a.git?branch=b&subdir=x%2Fy&submodules=false",
            expect![[
                r#"git://h.example/a.git#refs/heads/b:x/y git.fullurl=https://h.example/a.git git.skipsubmodules=true"#
            ]],
        );
        check(
            "https://h.example/a.git?commit=abc&keep-git-dir&mtime=commit&fetch-by-commit=1",
            expect![[
                r#"git://h.example/a.git#abc git.fullurl=https://h.example/a.git git.keepgitdir=true git.checksum=abc git.mtime=commit git.fetchbycommit=true"#
            ]],
        );
        check(
            "https://h.example/a.git?ref=b#c",
            expect![[
                r#"invalid git source `https://h.example/a.git?ref=b#c`: expected one of `c` and `b`, not both"#
            ]],
        );
        check(
            "https://h.example/a.git?subdri=x",
            expect![[
                r#"invalid git source `https://h.example/a.git?subdri=x`: expected no key `subdri` (`subdir`?) in its query"#
            ]],
        );
    }
}
