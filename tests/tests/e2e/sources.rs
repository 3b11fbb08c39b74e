//! `ADD` of URLs and git repositories: from servers of the test's own, and what hostile ones get.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use cofferdam_tests::cofferdam::exit;
use cofferdam_tests::command::{command, run};
use cofferdam_tests::web::{Web, WebAnswer, WebRequest};
use cofferdam_tests::{Cofferdam, Context, Outcome, Tree, exported_owner};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

const SECRET: &str = "tok-9f3a-never-shown";
/// Tue, 14 Nov 2023 22:13:20 GMT
const CHANGED: &str = "Tue, 14 Nov 2023 22:13:20 GMT";

/// What a build from scratch leaves.
struct Place {
    cofferdam: Cofferdam,
    out: TempDir,
}

impl Place {
    fn new() -> Result<Self> {
        Ok(Self { cofferdam: Cofferdam::new()?, out: tempfile::tempdir()? })
    }

    fn outcome(&self, dockerfile: &str, arguments: &[&str]) -> Result<Outcome> {
        let context = Context::new(dockerfile)?;
        let build =
            self.cofferdam.build(context.path()).varies("servers count what they are asked");
        arguments.iter().fold(build, |build, argument| build.arg(argument)).run()
    }

    /// Builds, and gives the files.
    fn build(&self, steps: &str, arguments: &[&str]) -> Result<(Outcome, PathBuf)> {
        let directory =
            self.out.path().join(format!("{}", std::fs::read_dir(self.out.path())?.count()));
        let output = format!("type=local,dest={}", directory.display());
        let mut all = vec!["-o", output.as_str()];
        all.extend(arguments);
        let outcome = self.outcome(&format!("FROM scratch\n{steps}"), &all)?.succeeded();
        Ok((outcome, directory))
    }

    fn fails(&self, steps: &str, code: i32, says: &[&str]) -> Result<Outcome> {
        let outcome = self.outcome(&format!("FROM scratch\n{steps}"), &[])?.ended(code);
        outcome.says(says);
        outcome.says(&["Dockerfile:2"]);
        Ok(outcome)
    }
}

fn read(path: impl AsRef<Path>) -> Result<String> {
    Ok(std::fs::read_to_string(path)?)
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A file server: `/f` has a version, `/moved` leads to it, `/flaky` works at the second attempt,
/// `/private` wants a token.
fn files() -> Result<Web> {
    let flaky = AtomicUsize::new(0);
    Web::start(move |request: &WebRequest| {
        let header = |name: &str| request.headers.get(name).map(String::as_str);
        match request.path.as_str() {
            "/f.txt" if header("if-none-match") == Some("\"1\"") => WebAnswer::status(304),
            "/f.txt" => WebAnswer::body("of the web\n")
                .header("ETag", "\"1\"")
                .header("Last-Modified", CHANGED),
            // Says a version and takes no notice of ours.
            "/stubborn" => WebAnswer::body("stubborn\n").header("ETag", "W/\"s\""),
            "/moved" => WebAnswer::status(302).header("Location", "/f.txt"),
            "/around" => WebAnswer::status(302).header("Location", "/around"),
            "/inside" => WebAnswer::status(302).header("Location", "file:///etc/passwd"),
            "/flaky" if flaky.fetch_add(1, Ordering::Relaxed) == 0 => WebAnswer::status(503),
            "/flaky" => WebAnswer::body("at last\n"),
            "/private" if header("authorization") == Some(&format!("Bearer {SECRET}")) => {
                WebAnswer::body("private\n")
            }
            "/private" => WebAnswer::status(401),
            _ => WebAnswer::status(404),
        }
    })
}

#[test]
fn a_file_is_fetched_once_and_then_asked_for() -> Result<()> {
    let (place, web) = (Place::new()?, files()?);
    let steps = format!(
        "ADD {} /a/\nADD --chmod=640 --chown=5:6 {} /b\n",
        web.url("/f.txt"),
        web.url("/moved")
    );
    let (_, out) = place.build(&steps, &[])?;
    assert_eq!(read(out.join("a/f.txt"))?, "of the web\n");
    let tree = Tree::from_directory(&out)?;
    let (a, b) = (&tree.entries["a/f.txt"], &tree.entries["b"]);
    assert_eq!((a.mode, a.mtime), (0o600, 1_700_000_000));
    assert_eq!((a.uid, a.gid), exported_owner(0, 0));
    assert_eq!((b.mode, (b.uid, b.gid)), (0o640, exported_owner(5, 6)));
    let _ = web.asked();

    let (outcome, _) = place.build(&steps, &[])?;
    assert_eq!(outcome.executed(), Vec::<String>::new());
    let asked = web.asked();
    assert!(asked.iter().all(|request| request.headers.contains_key("if-none-match")), "{asked:?}");
    let bytes = place.build(&format!("ADD {} /s\n", web.url("/stubborn")), &[])?;
    let again = place.build(&format!("ADD {} /s\n", web.url("/stubborn")), &[])?;
    assert_eq!((bytes.0.executed().len(), again.0.executed().len()), (2, 0));

    let (_, out) = place.build(&format!("ADD {} /x\n", web.url("/flaky")), &[])?;
    assert_eq!(read(out.join("x"))?, "at last\n");
    let listed = {
        let mut command = place.cofferdam.command();
        let root = place.cofferdam.root();
        run(command.arg("du").arg("--root").arg(root).args(["--filter", "type==source.http"]))?
    };
    assert!(listed.contains("/f.txt"), "{listed}");
    Ok(())
}

#[test]
fn with_a_checksum_nobody_is_asked_twice() -> Result<()> {
    let (place, web) = (Place::new()?, files()?);
    let sum = sha256(b"of the web\n");
    let steps = format!("ADD --checksum={sum} {} /f\n", web.url("/f.txt"));
    let _ = place.build(&steps, &[])?;
    assert_eq!(web.asked().len(), 1);
    let (_, out) = place.build(&steps, &["--no-cache"])?;
    assert_eq!(read(out.join("f"))?, "of the web\n");
    assert_eq!(web.asked().len(), 0, "the bytes are there, and are the right ones");

    let wrong = sha256(b"other");
    let says = [wrong.as_str(), sum.as_str(), "/f.txt"];
    place.fails(
        &format!("ADD --checksum={wrong} {} /f\n", web.url("/f.txt")),
        exit::USER,
        &says,
    )?;
    Ok(())
}

#[test]
fn what_servers_do_wrong() -> Result<()> {
    let (place, web) = (Place::new()?, files()?);
    for (path, says) in [
        ("/none", "not found"),
        ("/private", "access denied"),
        ("/around", "redirects"),
        ("/inside", "redirect"),
    ] {
        place.fails(&format!("ADD {} /x\n", web.url(path)), exit::NETWORK, &[says, path])?;
    }
    let steps = format!(
        "ADD {}?sig={SECRET} /x\n",
        web.url("/none").replace("//", &format!("//u:{SECRET}@"))
    );
    let outcome = place.fails(&steps, exit::NETWORK, &["not found"])?;
    let error = outcome.text.lines().find(|line| line.starts_with("error")).unwrap_or_default();
    assert!(!error.split("/none").last().unwrap_or_default().contains(SECRET), "{error}");
    Ok(())
}

#[test]
fn a_token_goes_to_its_host_only() -> Result<()> {
    let (place, web) = (Place::new()?, files()?);
    let thief = Web::start(|_| WebAnswer::body("stolen\n"))?;
    let elsewhere = thief.url("/x");
    let trap = Web::start(move |_| WebAnswer::status(302).header("Location", elsewhere.clone()))?;
    let lend = |web: &Web| format!("id=HTTP_AUTH_TOKEN_{},env=TOKEN", web.address());
    let context = Context::new(&format!(
        "FROM scratch\nADD {} /p\nADD {} /t\n",
        web.url("/private"),
        trap.url("/t")
    ))?;
    let build = place.cofferdam.build(context.path()).varies("the servers are asked");
    let build =
        build.env("TOKEN", SECRET).option("--secret", lend(&web)).option("--secret", lend(&trap));
    let outcome = build.run()?.succeeded();
    assert!(!format!("{:?}{}", outcome.events, outcome.text).contains(SECRET));
    assert!(trap.asked()[0].headers["authorization"].contains(SECRET));
    assert!(thief.asked().iter().all(|request| !request.headers.contains_key("authorization")));
    let found = command("grep", ["-rlaF", SECRET]).arg(place.cofferdam.home()).output()?;
    assert_eq!(String::from_utf8(found.stdout)?, "");
    Ok(())
}

/// A directory of repositories, each with a work tree beside it.
struct Repositories(TempDir);

impl Repositories {
    fn new() -> Result<Self> {
        Ok(Self(tempfile::tempdir()?))
    }

    fn git(&self, name: &str, arguments: &[&str]) -> Result<String> {
        let mut git = command("git", arguments);
        git.current_dir(self.0.path().join(name)).env("HOME", "/nonexistent");
        for (variable, value) in [
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_AUTHOR_NAME", "a"),
            ("GIT_AUTHOR_EMAIL", "a@b"),
            ("GIT_COMMITTER_NAME", "a"),
            ("GIT_COMMITTER_EMAIL", "a@b"),
            ("GIT_AUTHOR_DATE", "1700000000 +0000"),
            ("GIT_COMMITTER_DATE", "1700000000 +0000"),
        ] {
            git.env(variable, value);
        }
        Ok(run(&mut git)?.trim().to_owned())
    }

    /// A new repository with these files.
    fn add(&self, name: &str, files: &[(&str, &str)]) -> Result<()> {
        std::fs::create_dir(self.0.path().join(name))?;
        self.git(name, &["init", "-q", "-b", "main"])?;
        self.commit(name, files)?;
        Ok(())
    }

    /// A commit that changes these files; its name.
    fn commit(&self, name: &str, files: &[(&str, &str)]) -> Result<String> {
        for (path, contents) in files {
            let path = self.0.path().join(name).join(path);
            std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
            std::fs::write(path, contents)?;
        }
        self.git(name, &["add", "-A"])?;
        self.git(name, &["commit", "-q", "--allow-empty", "-m", "change"])?;
        self.git(name, &["rev-parse", "HEAD"])
    }

    /// Adds a submodule with whatever URL and commit, which git itself would refuse.
    fn submodule(&self, name: &str, path: &str, url: &str, commit: &str) -> Result<String> {
        self.named_submodule(name, path, path, url, commit)
    }

    /// Adds `inner.git`, and `lib.git` with it as the submodule `in`; their commits.
    fn add_nested(&self) -> Result<(String, String)> {
        self.add("inner.git", &[("deep", "deep\n")])?;
        let inner = self.git("inner.git", &["rev-parse", "HEAD"])?;
        self.add("lib.git", &[("l", "lib\n")])?;
        let lib = self.submodule("lib.git", "in", "../inner.git", &inner)?;
        Ok((inner, lib))
    }

    /// Adds a submodule like [`Self::submodule`], with a name that is not its path.
    fn named_submodule(
        &self,
        name: &str,
        called: &str,
        path: &str,
        url: &str,
        commit: &str,
    ) -> Result<String> {
        let list = self.0.path().join(name).join(".gitmodules");
        let mut text = std::fs::read_to_string(&list).unwrap_or_default();
        text += &format!("[submodule \"{called}\"]\n\tpath = {path}\n\turl = {url}\n");
        std::fs::write(list, text)?;
        self.git(name, &["add", ".gitmodules"])?;
        self.git(
            name,
            &["update-index", "--add", "--cacheinfo", &format!("160000,{commit},{path}")],
        )?;
        self.git(name, &["commit", "-q", "-m", "submodule"])?;
        self.git(name, &["rev-parse", "HEAD"])
    }
}

#[test]
fn a_repository_in_every_form() -> Result<()> {
    let (place, repositories) = (Place::new()?, Repositories::new()?);
    repositories.add("app.git", &[("f", "one\n"), ("sub/g", "g\n")])?;
    let first = repositories.git("app.git", &["rev-parse", "HEAD"])?;
    repositories.git("app.git", &["tag", "-a", "v1", "-m", "v1"])?;
    std::os::unix::fs::symlink("/etc/passwd", repositories.0.path().join("app.git/link"))?;
    let second = repositories.commit("app.git", &[("f", "two\n")])?;
    repositories.git("app.git", &["branch", "both"])?;
    repositories.git("app.git", &["tag", "both", &first])?;
    let web = Web::git(repositories.0.path())?;
    let url = web.url("/git/app.git");
    let steps = format!(
        "ADD {url} /head\nADD {url}#v1 /tag\nADD {url}#main:sub /sub\nADD {url}#both /both\n\
         ADD {url}#{first} /commit\nADD --checksum={second} {url}#main /sum\n\
         ADD --keep-git-dir=true {url}#main /kept\n"
    );
    let (_, out) = place.build(&steps, &[])?;
    for (path, expected) in [
        ("head/f", "two\n"),
        ("tag/f", "one\n"),
        ("sub/g", "g\n"),
        ("both/f", "two\n"),
        ("commit/f", "one\n"),
        ("sum/f", "two\n"),
        ("kept/f", "two\n"),
    ] {
        assert_eq!(read(out.join(path))?, expected, "{path}");
    }
    assert_eq!(std::fs::read_link(out.join("head/link"))?, Path::new("/etc/passwd"));
    assert!(!out.join("head/.git").exists());
    let git = |arguments: &[&str]| {
        run(command("git", arguments).current_dir(out.join("kept")).env("HOME", "/nonexistent"))
    };
    assert_eq!(git(&["status", "--porcelain"])?, "");
    assert_eq!(git(&["rev-parse", "HEAD"])?.trim(), second);
    assert_eq!(git(&["config", "remote.origin.url"])?.trim(), url);
    assert!(!out.join("kept/.git/hooks").exists());
    // Known commits are asked for by name only, and fetched no more.
    let _ = web.asked();
    let (outcome, _) = place.build(&steps, &[])?;
    assert_eq!(outcome.executed(), Vec::<String>::new());
    assert!(web.asked().iter().all(|request| !request.path.ends_with("git-upload-pack")
        || !String::from_utf8_lossy(&request.body).contains("command=fetch")));
    let steps = format!("ADD {url}#{first} /commit\n");
    let _ = place.build(&steps, &[])?;
    assert_eq!(web.asked().len(), 0, "the key of a commit needs no server");
    repositories.commit("app.git", &[("f", "three\n")])?;
    let (_, out) = place.build(&format!("ADD {url} /x\n"), &[])?;
    assert_eq!(read(out.join("x/f"))?, "three\n");
    Ok(())
}

#[test]
fn a_damaged_copy_of_a_repository_is_fetched_again() -> Result<()> {
    let (place, repositories) = (Place::new()?, Repositories::new()?);
    repositories.add("app.git", &[("f", "f\n"), ("g", "g\n"), ("d/f", "df\n")])?;
    let web = Web::git(repositories.0.path())?;
    let steps = format!("ADD {} /x\n", web.url("/git/app.git"));
    let object = |name: &str| -> Result<String> {
        let id = repositories.git("app.git", &["rev-parse", &format!("HEAD:{name}")])?;
        Ok(format!("objects/{}/{}", &id[..2], &id[2..]))
    };
    let (file, other, directory) = (object("f")?, object("g")?, object("d")?);
    type Damage<'a> = &'a dyn Fn(&Path) -> std::io::Result<()>;
    let damages: [(&str, Damage<'_>); 5] = [
        ("none", &|_| Ok(())),
        ("a file's object that is another one", &|copy| {
            std::fs::remove_file(copy.join(&file))?;
            std::fs::copy(copy.join(&other), copy.join(&file)).map(drop)
        }),
        ("a directory's object that is cut off", &|copy| {
            std::fs::remove_file(copy.join(&directory))?;
            std::fs::write(copy.join(&directory), "x")
        }),
        ("no object", &|copy| std::fs::remove_file(copy.join(&file))),
        ("settings that are no settings", &|copy| std::fs::write(copy.join("config"), "[core")),
    ];
    let _ = place.build(&steps, &[])?;
    for (what, damage) in damages {
        let dirs = place.cofferdam.root().join("dirs");
        let [copy] = std::fs::read_dir(&dirs)?
            .collect::<std::io::Result<Vec<_>>>()?
            .try_into()
            .map_err(|_| anyhow::anyhow!("one directory of the store was expected"))?;
        damage(&copy.path().join("fs")).with_context(|| what.to_owned())?;
        let (_, out) = place.build(&steps, &["--no-cache"])?;
        for (path, expected) in [("x/f", "f\n"), ("x/g", "g\n"), ("x/d/f", "df\n")] {
            assert_eq!(read(out.join(path))?, expected, "{path} after {what}");
        }
    }
    Ok(())
}

#[test]
fn submodules_come_along_from_servers_only() -> Result<()> {
    let (place, repositories) = (Place::new()?, Repositories::new()?);
    let web = Web::git(repositories.0.path())?;
    let (inner, lib) = repositories.add_nested()?;
    repositories.add("app.git", &[("f", "f\n")])?;
    repositories.submodule("app.git", "vendor/lib", &web.url("/git/lib.git"), &lib)?;
    let url = web.url("/git/app.git");
    let (_, out) = place.build(&format!("ADD {url} /x\nADD {url}#main:vendor/lib/in /y\n"), &[])?;
    assert_eq!(read(out.join("x/vendor/lib/l"))?, "lib\n");
    assert_eq!(read(out.join("x/vendor/lib/in/deep"))?, "deep\n");
    assert_eq!(read(out.join("y/deep"))?, "deep\n");

    let canary = repositories.0.path().join("canary");
    for (number, hostile) in [
        format!("file://{}", repositories.0.path().join("inner.git").display()),
        repositories.0.path().join("inner.git").display().to_string(),
        format!("ext::sh -c touch%20{}", canary.display()),
        format!("--upload-pack=touch {}", canary.display()),
        format!("-u{}", canary.display()),
        "../../../../../x".to_owned(),
    ]
    .iter()
    .enumerate()
    {
        let name = format!("hostile{number}.git");
        repositories.add(&name, &[("f", "f\n")])?;
        repositories.submodule(&name, "sub", hostile, &inner)?;
        let url = web.url(&format!("/git/{name}"));
        place.fails(&format!("ADD {url} /x\n"), exit::USER, &["submodule `sub`", &url])?;
    }
    assert!(!canary.exists());
    // One that asks its own server for what is not there.
    repositories.add("lost.git", &[("f", "f\n")])?;
    repositories.submodule("lost.git", "sub", "./none.git", &"1".repeat(40))?;
    let url = web.url("/git/lost.git");
    place.fails(&format!("ADD {url} /x\n"), exit::NETWORK, &["none.git"])?;
    Ok(())
}

/// With `--keep-git-dir` submodules are repositories, too, as `git submodule update` leaves them.
#[test]
fn submodules_keep_their_git_dir() -> Result<()> {
    let (place, repositories) = (Place::new()?, Repositories::new()?);
    let web = Web::git(repositories.0.path())?;
    let (inner, lib) = repositories.add_nested()?;
    repositories.add("app.git", &[("f", "f\n")])?;
    repositories.named_submodule("app.git", "the/lib", "vendor/lib", "../lib.git", &lib)?;
    let app = repositories.git("app.git", &["rev-parse", "HEAD"])?;
    let url = web.url("/git/app.git");
    let steps = format!("ADD --keep-git-dir=true {url}#main /x\nADD {url}#main /plain\n");
    let (_, out) = place.build(&steps, &[])?;
    let git = |directory: &str, arguments: &[&str]| {
        let mut git = command("git", arguments);
        run(git.current_dir(out.join(directory)).env("HOME", "/nonexistent"))
    };
    for (directory, commit, url) in [
        ("x", &app, &url),
        ("x/vendor/lib", &lib, &web.url("/git/lib.git")),
        ("x/vendor/lib/in", &inner, &web.url("/git/inner.git")),
    ] {
        assert_eq!(git(directory, &["rev-parse", "HEAD"])?.trim(), commit.trim(), "{directory}");
        assert_eq!(git(directory, &["status", "--porcelain"])?, "", "{directory}");
        assert_eq!(git(directory, &["config", "remote.origin.url"])?.trim(), url, "{directory}");
    }
    let modules = git("x", &["submodule", "status", "--recursive"])?;
    let modules: Vec<&str> =
        modules.lines().map(|line| &line[..line.rfind(' ').unwrap()]).collect();
    let (lib, inner) = (lib.trim(), inner.trim());
    assert_eq!(modules, [format!(" {lib} vendor/lib"), format!(" {inner} vendor/lib/in")]);
    assert_eq!(
        read(out.join("x/vendor/lib/.git"))?,
        "gitdir: ../../.git/modules/the/lib\n".to_owned()
    );
    assert!(!out.join("plain/vendor/lib/.git").exists());

    // A name may not lead elsewhere (CVE-2018-11235), nor into another's repository
    // (CVE-2019-1387).
    repositories.add("up.git", &[("f", "f\n")])?;
    repositories.named_submodule("up.git", "../../out", "sub", "../inner.git", inner)?;
    repositories.add("within.git", &[("f", "f\n")])?;
    repositories.named_submodule("within.git", "a", "one", "../inner.git", inner)?;
    repositories.named_submodule("within.git", "a/hooks", "two", "../inner.git", inner)?;
    for (name, says) in [
        ("up.git", "its submodule named `../../out` has a name that no directory may have"),
        ("within.git", "its submodule named `a/hooks` would lie in the repository of another"),
    ] {
        let url = web.url(&format!("/git/{name}"));
        let steps = format!("ADD --keep-git-dir=true {url}#main /x\n");
        place.fails(&steps, exit::USER, &[says, &url])?;
        // Without a `.git` nothing is called so.
        let (_, out) = place.build(&format!("ADD {url}#main /x\n"), &[])?;
        assert_eq!(read(out.join("x/f"))?, "f\n");
    }
    Ok(())
}

#[test]
fn wrong_repositories() -> Result<()> {
    let (place, repositories) = (Place::new()?, Repositories::new()?);
    let web = Web::git(repositories.0.path())?;
    repositories.add("app.git", &[("f", "f\n"), ("d/f", "f\n")])?;
    std::os::unix::fs::symlink("/etc", repositories.0.path().join("app.git/etc"))?;
    std::os::unix::fs::symlink("d", repositories.0.path().join("app.git/to"))?;
    let commit = repositories.commit("app.git", &[])?;
    let url = web.url("/git/app.git");
    let none = web.url("/git/none.git");
    let other = "1".repeat(40);
    let cases: &[(String, i32, &[&str])] = &[
        (format!("{url}#nothere"), exit::USER, &["no branch, tag or commit `nothere`"]),
        (format!("{url}#main:none"), exit::USER, &["no directory `none`"]),
        (format!("{url}#main:etc"), exit::USER, &["`etc` is no directory"]),
        (format!("{url}#main:to/x"), exit::USER, &["`to` is no directory"]),
        (format!("{url}#main:f"), exit::USER, &["`f` is no directory"]),
        (format!("{url}#main:d/../.."), exit::USER, &["no directory of a commit"]),
        (format!("{url}#main:.git"), exit::USER, &["no directory of a commit"]),
        (format!("{url}#--upload-pack=x"), exit::USER, &["is no name of a branch"]),
        (format!("{url}#{other}"), exit::NETWORK, &["cannot fetch the commit"]),
        (none, exit::NETWORK, &["cannot ask for its references", "not found"]),
        ("git://-oProxyCommand=x/a".to_owned(), exit::USER, &["names no host"]),
        ("git@127.0.0.1:-upload-pack".to_owned(), exit::USER, &["git@127.0.0.1"]),
    ];
    for (source, code, says) in cases {
        place.fails(&format!("ADD {source} /x\n"), *code, says)?;
    }
    let steps = format!("ADD --checksum={other} {url}#main /x\n");
    place.fails(&steps, exit::USER, &[&format!("commit {other} expected"), &commit])?;
    Ok(())
}

#[test]
fn what_does_not_fit_is_not_fetched() -> Result<()> {
    let (place, repositories) = (Place::new()?, Repositories::new()?);
    let web = Web::git(repositories.0.path())?;
    repositories.add("app.git", &[("f", "f\n")])?;
    let mut noise = vec![0; 60 << 20];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut noise)?;
    std::fs::write(repositories.0.path().join("app.git/big"), &noise)?;
    repositories.commit("app.git", &[])?;
    let url = web.url("/git/app.git");
    let file = Web::start(move |_| WebAnswer::body(noise.clone()))?;
    for source in [url, file.url("/big")] {
        let steps = format!("FROM scratch\nADD {source} /x\n");
        let outcome = place.outcome(&steps, &["--max-storage", "48m"])?.ended(exit::CONFIGURATION);
        outcome.says(&["the storage limit of"]);
    }
    Ok(())
}

#[test]
fn nothing_of_the_users_or_the_servers_making_is_run() -> Result<()> {
    let (place, repositories) = (Place::new()?, Repositories::new()?);
    let web = Web::git(repositories.0.path())?;
    // An attribute with a filter and a hook, and settings of the user's that would run them.
    repositories.add(
        "app.git",
        &[("f", "as it is\n"), (".gitattributes", "* filter=run text eol=crlf\n")],
    )?;
    let canary = place.out.path().join("canary");
    let settings = format!(
        "[filter \"run\"]\n\tsmudge = touch {0}\n\trequired = true\n[core]\n\thooksPath = /tmp\n\
         \tfsmonitor = touch {0}\n[url \"http://127.0.0.1:1/\"]\n\tinsteadOf = {1}\n",
        canary.display(),
        web.url("/")
    );
    std::fs::write(place.cofferdam.home().join(".gitconfig"), settings)?;
    let (_, out) = place.build(&format!("ADD {} /x\n", web.url("/git/app.git")), &[])?;
    assert_eq!(read(out.join("x/f"))?, "as it is\n");
    assert!(!canary.exists());
    // The server cannot send git elsewhere but by what is allowed.
    let trap = Web::start(|_| WebAnswer::status(302).header("Location", "file:///etc/passwd"))?;
    place.fails(&format!("ADD {} /x\n", trap.url("/x.git")), exit::NETWORK, &["cannot ask"])?;
    Ok(())
}

#[test]
fn a_token_for_git_goes_to_its_host_only() -> Result<()> {
    let (place, repositories) = (Place::new()?, Repositories::new()?);
    let open = Web::git(repositories.0.path())?;
    repositories.add("lib.git", &[("l", "lib\n")])?;
    let lib = repositories.git("lib.git", &["rev-parse", "HEAD"])?;
    repositories.add("app.git", &[("f", "f\n")])?;
    // By another name of this machine, which is another host.
    let elsewhere = open.url("/git/lib.git").replace("127.0.0.1", "localhost");
    repositories.submodule("app.git", "lib", &elsewhere, &lib)?;
    let inner = open.address();
    let expected = "Basic eC1hY2Nlc3MtdG9rZW46dG9rLTlmM2EtbmV2ZXItc2hvd24=";
    let web = Web::start(move |request| {
        match request.headers.get("authorization").map(String::as_str) {
            Some(text) if text == expected => forward(inner, request),
            _ => WebAnswer::status(401).header("WWW-Authenticate", "Basic realm=\"x\""),
        }
    })?;
    let url = web.url("/git/app.git");
    place.fails(&format!("ADD {url} /x\n"), exit::NETWORK, &["cannot ask for its references"])?;
    let context = Context::new(&format!("FROM scratch\nADD {url} /x\n"))?;
    let build = place.cofferdam.build(context.path()).varies("the servers are asked");
    let outcome =
        build.env("T", SECRET).option("--secret", "id=GIT_AUTH_TOKEN,env=T").run()?.succeeded();
    assert!(!format!("{:?}{}", outcome.events, outcome.text).contains(SECRET));
    let direct = open.asked().into_iter().filter(|request| request.path.contains("lib.git"));
    assert!(direct.clone().count() > 0);
    assert!(direct.clone().all(|request| !request.headers.contains_key("authorization")));
    for needle in [SECRET, expected] {
        let found = command("grep", ["-rlaF", needle]).arg(place.cofferdam.home()).output()?;
        assert_eq!(String::from_utf8(found.stdout)?, "");
    }
    Ok(())
}

/// Stands for ssh: looks at how it is called, asks the agent, and serves by itself.
const SSH: &str = "#!/bin/sh\nfor option in BatchMode=yes StrictHostKeyChecking=yes; do\n\
    case \"$*\" in *\"-o $option\"*) ;; *) echo \"no $option\" >&2; exit 9;; esac\ndone\n\
    case \"$*\" in *\" -- \"*|*\"git@h.example\"*) ;; *) exit 8;; esac\n\
    ssh-add -L | grep -q of-the-test || { echo 'no agent' >&2; exit 7; }\n\
    for word; do :; done\nexec /bin/sh -c \"$word\"\n";

#[test]
fn over_ssh_with_the_clients_agent() -> Result<()> {
    let (place, repositories) = (Place::new()?, Repositories::new()?);
    repositories.add("app.git", &[("f", "over ssh\n")])?;
    let agent = crate::mounts::Agent::start()?;
    // The repository lies where programs are, which git can read.
    let program = repositories.0.path().join("ssh");
    std::fs::write(&program, SSH)?;
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let path = std::env::var("PATH")?;
    let path = format!("{}:{path}", repositories.0.path().display());
    let repository = repositories.0.path().join("app.git").display().to_string();
    let output = format!("type=local,dest={}", place.out.path().join("out").display());
    for url in [format!("git@h.example:{repository}"), format!("ssh://git@h.example{repository}")] {
        let context = Context::new(&format!("FROM scratch\nADD {url} /x\n"))?;
        let build = || {
            let build = place.cofferdam.build(context.path()).varies("ssh is another each time");
            build.env("PATH", &path).env("SSH_AUTH_SOCK", agent.socket()).arg("--no-cache")
        };
        build().run()?.ended(exit::NETWORK).says(&["cannot ask for its references"]);
        let _ = build().option("--ssh", "default").option("-o", &output).run()?.succeeded();
        assert_eq!(read(place.out.path().join("out/x/f"))?, "over ssh\n", "{url}");
    }
    Ok(())
}

/// Asks another server the same.
fn forward(to: std::net::SocketAddr, request: &WebRequest) -> WebAnswer {
    use std::io::{Read as _, Write as _};
    let ask = || -> Result<WebAnswer> {
        let mut stream = std::net::TcpStream::connect(to)?;
        let mut head =
            format!("{} {}?{} HTTP/1.1\r\n", request.method, request.path, request.query);
        for name in ["content-type", "content-encoding", "git-protocol"] {
            if let Some(value) = request.headers.get(name) {
                head += &format!("{name}: {value}\r\n");
            }
        }
        head += &format!("Content-Length: {}\r\n\r\n", request.body.len());
        stream.write_all(head.as_bytes())?;
        stream.write_all(&request.body)?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(0);
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut answer = WebAnswer::body(&bytes[end + 4..]);
        for line in head.lines().skip(1) {
            match line.split_once(": ") {
                Some(("Content-Length" | "Connection", _)) | None => {}
                Some((name, value)) => answer = answer.header(name, value),
            }
        }
        Ok(answer)
    };
    ask().unwrap_or(WebAnswer::status(500))
}
