//! Build contexts that are no directory: git repositories, downloads, standard input; ignore files
//! beside a Dockerfile; and named contexts of every kind.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use cofferdam_tests::cofferdam::exit;
use cofferdam_tests::command::{command, run};
use cofferdam_tests::tree::{FIXTURE_TIME, TarWriter};
use cofferdam_tests::web::{Web, WebAnswer};
use cofferdam_tests::{Cofferdam, Context, Layout, bases};
use tempfile::TempDir;

const SECRET: &str = "pw-77c1-never-shown";
/// When the commit of the repository was made.
const COMMITTED: u64 = 1_234_567_890;
const DOCKERFILE: &str = "FROM scratch\nCOPY . /\n";

/// Runs `cofferdam build` with these arguments and this standard input.
struct Place {
    cofferdam: Cofferdam,
    out: TempDir,
}

struct Built {
    output: Output,
    directory: PathBuf,
}

impl Built {
    fn said(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    #[track_caller]
    fn ended(self, code: i32, says: &[&str]) -> Self {
        let said = self.said();
        assert_eq!(self.output.status.code(), Some(code), "{said}");
        for part in says {
            assert!(said.contains(part), "no {part:?} in:\n{said}");
        }
        self
    }

    #[track_caller]
    fn has(self, files: &[(&str, &str)]) -> Self {
        let built = self.ended(exit::OK, &[]);
        for (path, contents) in files {
            let found = std::fs::read_to_string(built.directory.join(path));
            assert_eq!(found.as_deref().ok(), Some(*contents), "{path}: {}", built.said());
        }
        built
    }

    fn lacks(&self, path: &str) {
        assert!(std::fs::symlink_metadata(self.directory.join(path)).is_err(), "{path} is there");
    }
}

impl Place {
    fn new() -> Result<Self> {
        Ok(Self { cofferdam: Cofferdam::new()?, out: tempfile::tempdir()? })
    }

    fn build(&self, arguments: &[&str], stdin: &[u8]) -> Result<Built> {
        let number = std::fs::read_dir(self.out.path())?.count();
        let directory = self.out.path().join(number.to_string());
        std::fs::create_dir(&directory)?;
        let mut command = self.cofferdam.command();
        command.arg("build").arg("--root").arg(self.cofferdam.root()).args(["--progress", "plain"]);
        command.arg("-o").arg(format!("type=local,dest={}", directory.display())).args(arguments);
        let mut child = command.stdin(Stdio::piped()).spawn()?;
        let mut pipe = child.stdin.take().context("it is piped")?;
        let bytes = stdin.to_vec();
        // What nobody reads is no failure of the test.
        let writer = std::thread::spawn(move || pipe.write_all(&bytes));
        let output = child.wait_with_output()?;
        let _ = writer.join();
        Ok(Built { output, directory })
    }
}

fn archive(files: &[(&str, &str)]) -> Result<Vec<u8>> {
    let mut tar = TarWriter::new();
    for (path, contents) in files {
        tar.file(path, 0o644, contents.as_bytes())?;
    }
    tar.finish()
}

/// The same archive as each program compresses it.
fn compressed(plain: &[u8]) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let mut all = vec![("tar", plain.to_vec())];
    for program in ["gzip", "bzip2", "xz", "zstd"] {
        let mut child = command(program, ["-c"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        let mut pipe = child.stdin.take().context("it is piped")?;
        let bytes = plain.to_vec();
        let writer = std::thread::spawn(move || pipe.write_all(&bytes));
        all.push((program, child.wait_with_output()?.stdout));
        let _ = writer.join();
    }
    Ok(all)
}

#[test]
fn an_archive_on_standard_input() -> Result<()> {
    let place = Place::new()?;
    let files = [
        ("Dockerfile", DOCKERFILE),
        ("other/Dockerfile", "FROM scratch\nCOPY f /other\n"),
        ("f", "of the archive\n"),
        // Not of the client, so it does not count.
        (".dockerignore", "f\n"),
    ];
    for (kind, bytes) in compressed(&archive(&files)?)? {
        let built = place.build(&["-"], &bytes)?;
        built.has(&[("f", "of the archive\n"), (".dockerignore", "f\n")]).lacks(kind);
    }
    let plain = archive(&files)?;
    let built = place.build(&["-f", "other/Dockerfile", "-"], &plain)?;
    built.has(&[("other", "of the archive\n")]).lacks("f");
    // The same again is cached.
    assert!(place.build(&["-"], &plain)?.has(&[]).said().contains("CACHED"));

    place.build(&["-f", "-", "-"], &plain)?.ended(exit::USER, &["cannot both be standard input"]);
    place.build(&["-f", "none", "-"], &plain)?.ended(exit::USER, &["no Dockerfile `none`"]);
    place
        .build(&["-f", "/abs", "-"], &plain)?
        .ended(exit::USER, &["expected a path in the context"]);
    let cut = &plain[..700];
    place.build(&["-"], cut)?.ended(exit::USER, &["archive"]);
    Ok(())
}

#[test]
fn a_dockerfile_on_standard_input() -> Result<()> {
    let place = Place::new()?;
    place.build(&["-"], b"FROM scratch\nCOPY <<x /made\nhere\nx\n")?.has(&[("made", "here\n")]);
    let context = Context::new("FROM nothing\n")?;
    context.file("f", "f\n")?;
    let path = context.path().to_str().context("UTF-8")?;
    place.build(&["-f", "-", path], b"FROM scratch\nCOPY f /g\n")?.has(&[("g", "f\n")]);
    place
        .build(&["-f", "x", "-"], b"FROM scratch\n")?
        .ended(exit::USER, &["is a Dockerfile itself"]);
    place.build(&["-"], b"")?.ended(exit::USER, &["no FROM"]);
    Ok(())
}

#[test]
fn a_hostile_archive_leads_nowhere() -> Result<()> {
    let place = Place::new()?;
    let canary = place.out.path().join("canary");
    std::fs::write(&canary, SECRET)?;
    let mut tar = TarWriter::new();
    tar.symlink("Dockerfile", "/etc/hostname")?;
    let built = place.build(&["-"], &tar.finish()?)?;
    assert_ne!(built.output.status.code(), Some(exit::OK), "{}", built.said());
    let mut tar = TarWriter::new();
    let steps = format!("FROM scratch\nCOPY up{} /x\n", canary.display());
    tar.file("Dockerfile", 0o644, steps.as_bytes())?;
    tar.symlink("up", "/")?;
    tar.symlink("above", "../../../../../../..")?;
    let built = place.build(&["-"], &tar.finish()?)?;
    assert!(!built.said().contains(SECRET));
    assert_ne!(built.output.status.code(), Some(exit::OK), "{}", built.said());
    let context = Context::new(DOCKERFILE)?;
    context.file("x", "x")?;
    let mut tar = command("tar", ["-cP", "--transform", "s,^x$,../../outside,"]);
    let tar = tar.args(["Dockerfile", "x"]).current_dir(context.path()).output()?.stdout;
    let built = place.build(&["-"], &tar)?;
    assert!(String::from_utf8_lossy(&tar).contains("../../outside"), "{}", built.said());
    let found = run(command("find", [place.cofferdam.home()]).args(["-name", "outside"]))?;
    assert_eq!(found, "");
    Ok(())
}

/// A directory with the repository `app.git`, which has two Dockerfiles.
fn repository() -> Result<TempDir> {
    let directory = tempfile::tempdir()?;
    let work = directory.path().join("app.git");
    std::fs::create_dir_all(work.join("sub"))?;
    std::fs::write(work.join("Dockerfile"), DOCKERFILE)?;
    std::fs::write(work.join("sub/Dockerfile"), "FROM scratch\nCOPY g /\n")?;
    std::fs::write(work.join("sub/g"), "g\n")?;
    std::fs::write(work.join("f"), "of the repository\n")?;
    let git = |arguments: &[&str]| {
        let mut git = command("git", arguments);
        git.current_dir(&work).env("GIT_CONFIG_GLOBAL", "/dev/null").env("HOME", "/nonexistent");
        git.env("GIT_COMMITTER_DATE", format!("{COMMITTED} +0200"));
        for name in
            ["GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"]
        {
            git.env(name, "a");
        }
        run(&mut git)
    };
    git(&["init", "-q", "-b", "main"])?;
    git(&["add", "-A"])?;
    git(&["commit", "-q", "-m", "one"])?;
    git(&["tag", "v1"])?;
    Ok(directory)
}

#[test]
fn a_repository() -> Result<()> {
    let (place, repository) = (Place::new()?, repository()?);
    let web = Web::git(repository.path())?;
    let url = web.url("/git/app.git");
    let build = |suffix: &str, more: &[&str]| {
        let place_of = format!("{url}{suffix}");
        place.build(&[more, &[place_of.as_str()]].concat(), b"FROM scratch\nCOPY sub/g /stdin\n")
    };
    let whole = &[("f", "of the repository\n"), ("sub/g", "g\n")];
    build("", &[])?.has(whole).lacks(".git");
    build("#v1", &[])?.has(whole);
    build("#main:sub", &[])?.has(&[("g", "g\n")]).lacks("f");
    build("", &["-f", "sub/Dockerfile"])?.ended(exit::USER, &["g"]);
    build("", &["-f", "-"])?.has(&[("stdin", "g\n")]).lacks("f");
    build("", &["--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1"])?
        .has(&[(".git/HEAD", &read_head(&repository)?)]);
    build("#none", &[])?.ended(exit::USER, &["no branch, tag or commit `none`"]);
    build("#main:none", &[])?.ended(exit::USER, &["no directory `none`"]);
    build("#main", &["-f", "none"])?.ended(exit::USER, &["no Dockerfile `none`"]);
    build("#--upload-pack=touch", &[])?.ended(exit::USER, &["is no name of a branch"]);
    for hostile in ["ext::sh -c x", "file:///etc", "-upload-pack=x", "git://-x/y"] {
        let built = place.build(&["--", hostile], b"")?;
        assert_eq!(built.output.status.code(), Some(exit::USER), "{hostile}: {}", built.said());
    }
    Ok(())
}

fn read_head(repository: &TempDir) -> Result<String> {
    run(command("git", ["rev-parse", "HEAD"]).current_dir(repository.path().join("app.git")))
}

#[test]
fn credentials_in_a_url_are_shown_to_its_server_only() -> Result<()> {
    let place = Place::new()?;
    let plain = archive(&[("Dockerfile", DOCKERFILE), ("f", "f\n")])?;
    // me:pw-77c1-never-shown
    let expected = "Basic bWU6cHctNzdjMS1uZXZlci1zaG93bg==";
    let web = Web::start(move |request| {
        match request.headers.get("authorization").map(String::as_str) {
            Some(text) if text == expected => WebAnswer::body(plain.clone()),
            _ => WebAnswer::status(401),
        }
    })?;
    let url = web.url("/x.tar").replace("//", &format!("//me:{SECRET}@"));
    let built = place.build(&[&url], b"")?.has(&[("f", "f\n")]);
    assert!(!built.said().contains(SECRET), "{}", built.said());
    let git = web.url("/x.git").replace("//", "//me:wrong-one@");
    let built = place.build(&[&git], b"")?.ended(exit::NETWORK, &["cannot ask"]);
    assert!(!built.said().contains("wrong-one"), "{}", built.said());
    for needle in [SECRET, "wrong-one", expected] {
        let found = command("grep", ["-rlaF", needle]).arg(place.cofferdam.home()).output()?;
        assert_eq!(String::from_utf8(found.stdout)?, "", "{needle}");
    }
    Ok(())
}

#[test]
fn downloads() -> Result<()> {
    let place = Place::new()?;
    let plain = archive(&[("Dockerfile", DOCKERFILE), ("f", "f\n")])?;
    let bytes = compressed(&plain)?;
    let web = Web::start(move |request| {
        let name = request.path.trim_start_matches('/');
        match bytes.iter().find(|(kind, _)| *kind == name) {
            Some((_, bytes)) => WebAnswer::body(bytes.clone()),
            None if name == "Dockerfile" => {
                WebAnswer::body("FROM scratch\nCOPY <<x /made\nhere\nx\n")
            }
            None => WebAnswer::status(404),
        }
    })?;
    for kind in ["tar", "gzip", "bzip2", "xz", "zstd"] {
        place.build(&[&web.url(&format!("/{kind}"))], b"")?.has(&[("f", "f\n")]);
    }
    place.build(&[&web.url("/Dockerfile")], b"")?.has(&[("made", "here\n")]);
    place.build(&[&web.url("/none")], b"")?.ended(exit::NETWORK, &["not found", "/none"]);
    Ok(())
}

#[test]
fn an_ignore_file_beside_the_dockerfile() -> Result<()> {
    let place = Place::new()?;
    let context = Context::new(DOCKERFILE)?;
    context.file("docker/x.Dockerfile", DOCKERFILE)?;
    context.file("docker/x.Dockerfile.dockerignore", "a\n")?;
    context.file(".dockerignore", "b\n")?.file("a", "a\n")?.file("b", "b\n")?;
    let path = context.path().to_str().context("UTF-8")?;
    let file = context.path().join("docker/x.Dockerfile");
    let file = file.to_str().context("UTF-8")?;
    place.build(&["-f", file, path], b"")?.has(&[("b", "b\n")]).lacks("a");
    place.build(&[path], b"")?.has(&[("a", "a\n")]).lacks("b");
    Ok(())
}

#[test]
fn named_contexts_of_every_kind() -> Result<()> {
    let (place, repository) = (Place::new()?, repository()?);
    let git = Web::git(repository.path())?;
    let web = Web::start(|_| WebAnswer::body("of the web\n"))?;
    let directory = Context::new("")?;
    directory.file("d", "of the directory\n")?;
    let layout = bases::busybox()?;
    let context = Context::new(
        "FROM scratch\nCOPY --from=git f /git\nCOPY --from=web context /web\n\
         COPY --from=dir d /dir\nCOPY --from=oci /etc/passwd /oci\n",
    )?;
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let contexts = [
        format!("git={}#v1", git.url("/git/app.git")),
        format!("web={}", web.url("/file")),
        format!("dir={}", path(directory.path())),
        format!("oci=oci-layout://{}", path(&layout.path)),
    ];
    let mut arguments: Vec<&str> = Vec::new();
    for context in &contexts {
        arguments.extend(["--build-context", context]);
    }
    let main = path(context.path());
    arguments.push(&main);
    let built = place.build(&arguments, b"")?;
    let expected =
        [("git", "of the repository\n"), ("web", "of the web\n"), ("dir", "of the directory\n")];
    assert!(built.has(&expected).directory.join("oci").exists());
    Ok(())
}

/// Says its epoch, and has a file that is made in the build.
const TIMED: &str =
    "FROM scratch\nARG SOURCE_DATE_EPOCH\nCOPY <<said /\n$SOURCE_DATE_EPOCH\nsaid\n";

/// What `SOURCE_DATE_EPOCH` names gives the result its time: the files and the image.
#[test]
fn epochs_of_contexts() -> Result<()> {
    const MODIFIED: (&str, u64) = ("Sun, 09 Sep 2001 01:46:40 GMT", 1_000_000_000);
    let (place, repository) = (Place::new()?, repository()?);
    let git = Web::git(repository.path())?;
    let git = git.url("/git/app.git");
    let tar = archive(&[("Dockerfile", TIMED), ("f", "f\n")])?;
    let packed = tar.clone();
    let web = Web::start(move |request| match request.path.as_str() {
        "/told" => WebAnswer::body(packed.clone()).header("Last-Modified", MODIFIED.0),
        "/untold" => WebAnswer::body(packed.clone()),
        "/text" => WebAnswer::body("text\n"),
        _ => WebAnswer::status(404),
    })?;
    let directory = Context::new("")?;
    directory.file("d", "d\n")?;
    let directory = directory.path().to_str().context("UTF-8")?;
    let timed = |epoch: &str| format!("ARG SOURCE_DATE_EPOCH={epoch}\n{TIMED}");
    let fetched = format!("FROM scratch AS src\nARG AT={git}\nADD ${{AT}}#v1 /\n{}", timed("Src"));
    let (fetch, epoch) = fetched.split_once("ARG SOURCE").context("it has one")?;
    let (epoch, rest) = epoch.split_once('\n').context("it has more")?;
    let of_stage = format!("ARG SOURCE{epoch}\n{fetch}{rest}");
    let asked = "SOURCE_DATE_EPOCH=context";
    let (named_git, named_web) = (format!("x={git}#v1"), format!("x={}", web.url("/told")));
    let (told, untold) = (web.url("/told"), web.url("/untold"));
    let text = format!("x={}", web.url("/text"));
    for (what, arguments, stdin, expected) in [
        ("git", &["-f", "-", &git][..], timed("context").into_bytes(), Some(COMMITTED)),
        (
            "git's part",
            &["-f", "-", &format!("{git}#main:sub")],
            timed("context").into(),
            Some(COMMITTED),
        ),
        ("argument", &["--build-arg", asked, "-f", "-", &git], TIMED.into(), Some(COMMITTED)),
        ("told", &["--build-arg", asked, &told], Vec::new(), Some(MODIFIED.1)),
        ("untold", &["--build-arg", asked, &untold], Vec::new(), Some(FIXTURE_TIME)),
        ("sent", &["--build-arg", asked, "-"], tar, Some(FIXTURE_TIME)),
        (
            "named git",
            &["--build-context", &named_git, "-f", "-", directory],
            timed("x").into(),
            Some(COMMITTED),
        ),
        (
            "named web",
            &["--build-context", &named_web, "-f", "-", directory],
            timed("x").into(),
            Some(MODIFIED.1),
        ),
        ("named text", &["--build-context", &text, "-f", "-", directory], timed("x").into(), None),
        ("a stage", &["-f", "-", directory], of_stage.into(), Some(COMMITTED)),
        ("a directory", &["-f", "-", directory], timed("context").into(), None),
        ("a Dockerfile", &["--build-arg", asked, "-"], TIMED.into(), None),
    ] {
        let layout = tempfile::tempdir()?;
        let output = format!("type=oci,tar=false,dest={}", layout.path().display());
        let arguments = [arguments, &["-o", &output]].concat();
        let said = expected.map(|seconds| seconds.to_string()).unwrap_or_default();
        let built = place.build(&arguments, &stdin)?.has(&[("said", &format!("{said}\n"))]);
        let Some(seconds) = expected else { continue };
        let time = UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(std::fs::metadata(built.directory.join("said"))?.modified()?, time, "{what}");
        let image = Layout::open(layout.path())?.image(&bases::oci_architecture()?)?;
        let created = image.config["created"].as_str().context("it has a time")?;
        let expected = run(command("date", ["-u", "+%FT%TZ", "-d"]).arg(format!("@{seconds}")))?;
        assert_eq!(created, expected.trim(), "{what}");
    }
    let built = place.build(&["-f", "-", directory], timed("nothing").as_bytes())?;
    built.ended(exit::USER, &["invalid SOURCE_DATE_EPOCH `nothing`", "ARG SOURCE_DATE_EPOCH"]);
    Ok(())
}
