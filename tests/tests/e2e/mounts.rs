//! `RUN --mount`: caches, secrets, ssh agents, binds and tmpfs; what they give to a step, and what
//! never comes of them.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use cofferdam_tests::cofferdam::exit;
use cofferdam_tests::command::{command, run};
use cofferdam_tests::{Context, Outcome};

use crate::World;

/// Nothing else in the state directory or on a screen has these bytes.
const SECRET: &str = "b0ea-tossed-secret-7c1d";
const NO_COMPARISON: &str = "what caches had before is part of what is looked at";

fn dockerfile(rest: &str) -> String {
    format!("ARG REGISTRY\nFROM ${{REGISTRY}}/busybox AS base\n{rest}")
}

impl World {
    /// Builds this, after the base image's `FROM`.
    fn mounted(&self, rest: &str, arguments: &[&str]) -> Result<Outcome> {
        let context = Context::new(&dockerfile(rest))?;
        let build = self.build(&context).varies(NO_COMPARISON);
        arguments.iter().fold(build, |build, argument| build.arg(argument)).run()
    }

    fn stored(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.cofferdam.command();
        let root = self.cofferdam.root();
        run(command.args(&arguments[..1]).arg("--root").arg(root).args(&arguments[1..]))
    }
}

/// A file whose bytes are anywhere below a directory.
fn find(directory: &Path, needle: &str) -> Result<Vec<String>> {
    let mut command = command("grep", ["-rlaF", needle]);
    let output = command.arg(directory).output()?;
    ensure!(output.status.code() != Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
}

#[test]
fn a_cache_outlives_builds_and_is_in_no_image() -> Result<()> {
    let world = World::new()?;
    let count = "RUN --mount=type=cache,target=/c echo x >> /c/runs; wc -l < /c/runs; \
                 grep -c ' /c ' /proc/mounts # ";
    let build = |mark: &str, arguments: &[&str]| {
        let outcome = world.mounted(&format!("{count}{mark}\n"), arguments)?.succeeded();
        Ok::<_, anyhow::Error>(outcome.log())
    };
    assert_eq!(build("one", &[])?, "1\n1\n");
    assert_eq!(build("two", &[])?, "2\n1\n");
    // Cached: what is in the cache is no part of the step's key.
    assert_eq!(build("two", &[])?, "");

    let listed = world.stored(&["du", "--filter", "type==exec.cachemount", "--verbose"])?;
    assert!(listed.contains("cached mount /c from [base 2/2] RUN"), "{listed}");
    let context = Context::new(&dockerfile(&format!("{count}two\n")))?;
    let (tree, _) = world.image(&context, "cached:1")?;
    assert!(!tree.entries.contains_key("c"), "not even an empty directory");

    // A build without a cache starts with empty ones, once: its second step finds the first's.
    let twice = format!("{count}three\n{count}four\n");
    let outcome = world.mounted(&twice, &["--no-cache"])?.succeeded();
    assert_eq!(outcome.log(), "1\n1\n2\n1\n", "{}", outcome.report());
    assert_eq!(build("five", &[])?, "3\n1\n");

    world.stored(&["prune", "--filter", "type==exec.cachemount"])?;
    assert_eq!(world.stored(&["du", "--json", "--filter", "type==exec.cachemount"])?, "");
    assert_eq!(build("six", &[])?, "1\n1\n");
    Ok(())
}

#[test]
fn how_caches_are_shared() -> Result<()> {
    let world = World::new()?;
    // Each waits for what the other one writes.
    let meet = |own: &str, other: &str| {
        format!(
            "FROM base AS {own}\nRUN --mount=type=cache,id=meet,target=/c touch /c/{own}; \
             while ! test -e /c/{other}; do sleep 0.1; done; touch /{own}\n"
        )
    };
    let all = "FROM base\nCOPY --from=a /a* /\nCOPY --from=b /b* /\n";
    let shared = format!("{}{}{all}", meet("a", "b"), meet("b", "a"));
    let _ = world.mounted(&shared, &[])?.succeeded();

    // Nobody else is there while a step is.
    let alone = |own: &str, sharing: &str| {
        format!(
            "FROM base AS {own}\n\
             RUN --mount=type=cache,id={sharing},target=/c,sharing={sharing} \
             --mount=type=cache,id=other,target=/d,sharing={sharing} \
             test ! -e /c/here && : {sharing} && touch /c/here && sleep 0.5 && echo {own} >> /c/all && \
             rm /c/here && touch /{own}\n"
        )
    };
    let locked = format!("{}{}{all}", alone("a", "locked"), alone("b", "locked"));
    let _ = world.mounted(&locked, &[])?.succeeded();
    // Also from two processes, and with the caches the other way round.
    let crossed = alone("c", "locked").replace("/c", "/x").replace("/d", "/c").replace("/x", "/d");
    let contexts = [
        Context::new(&dockerfile(&alone("d", "locked")))?,
        Context::new(&dockerfile(
            &crossed.replace("/c/here", "/d/here").replace("/c/all", "/d/all"),
        ))?,
    ];
    let builds = contexts.iter().map(|context| world.build(context).varies(NO_COMPARISON).spawn());
    for build in builds.collect::<Result<Vec<_>>>()? {
        let _ = build.finish()?.succeeded();
    }
    let look = "RUN --mount=type=cache,id=locked,target=/c sort /c/all | tr -d '\\n'; echo\n";
    let outcome = world.mounted(look, &[])?.succeeded();
    assert_eq!(outcome.log(), "abcd\n", "{}", outcome.report());

    let private = format!("{}{}{all}", alone("a", "private"), alone("b", "private"));
    let _ = world.mounted(&private, &[])?.succeeded();
    let kinds = world.stored(&["du", "--json", "--filter", "type==exec.cachemount"])?;
    // meet, locked, and at least one each of what `private` and `other` name.
    assert!(kinds.lines().count() >= 4, "{kinds}");
    Ok(())
}

#[test]
fn what_a_cache_starts_with_and_who_owns_it() -> Result<()> {
    let world = World::new()?;
    let outcome = world
        .mounted(
            "RUN mkdir -p /seed/sub && echo seeded > /seed/sub/f && chown -R 5:6 /seed\n\
             FROM base AS used\n\
             RUN --mount=type=cache,target=/c,from=base,source=/seed/sub \
                 cat /c/f; stat -c '%u:%g' /c/f; echo changed > /c/f\n\
             RUN --mount=type=cache,target=/c,from=base,source=/seed/sub cat /c/f\n\
             RUN --mount=type=cache,target=/m,uid=1234,gid=77,mode=0711 stat -c '%u:%g %a' /m\n\
             RUN --mount=type=cache,target=/r,readonly touch /r/x 2>&1 || true\n\
             FROM base\nCOPY --from=used /etc/passwd /p\nRUN cat /seed/sub/f\n",
            &[],
        )?
        .succeeded();
    let log = outcome.log();
    for line in ["seeded\n5:6\n", "changed\n", "1234:77 711\n", "Read-only file system\n"] {
        assert!(log.contains(line), "no {line:?} in {log}");
    }
    assert!(log.ends_with("seeded\n"), "the layer that it started with is as it was: {log}");
    Ok(())
}

#[test]
fn no_id_or_source_of_a_cache_leads_outside() -> Result<()> {
    let world = World::new()?;
    let canary = world.out.path().join("canary");
    std::fs::write(&canary, SECRET)?;
    let canary = canary.display();
    for id in ["../../../../../../etc", "/etc", "..", "a/../../b", "-x", "%2e%2e"] {
        let run = format!(
            "RUN --mount=type=cache,id={id},target=/c : {id}; ls -A /c; echo > /c/passwd; ls -A /c\n"
        );
        let outcome = world.mounted(&run, &[])?.succeeded();
        assert_eq!(outcome.log(), "passwd\n", "{id}");
    }
    let _ = world
        .mounted(
            "RUN --mount=type=cache,id=l,target=/c ln -s / /c/root; ln -s ../../../../.. /c/up\n",
            &[],
        )?
        .succeeded();
    for source in ["root", "up", "../..", "root/../../..", "up/tmp"] {
        let run = format!(
            "RUN --mount=type=cache,id=l,source={source},target=/c \
             ls /c; : {source}; test ! -e /c{canary}; test ! -e /c/etc; test -L /c/root\n"
        );
        // Either it is found within the cache, or not at all.
        let outcome = world.mounted(&run, &[])?;
        assert!(!outcome.report().contains(SECRET));
        if outcome.code != Some(exit::OK) {
            outcome.says(&["opening"]);
        }
    }
    Ok(())
}

#[test]
fn binds_and_tmpfs() -> Result<()> {
    let world = World::new()?;
    let context = Context::new(&dockerfile(
        "RUN --mount=target=/ctx cat /ctx/f; touch /ctx/x 2>&1 || true\n\
         RUN --mount=target=/ctx,rw echo more >> /ctx/f; cat /ctx/f\n\
         RUN --mount=target=/ctx cat /ctx/f\n\
         RUN --mount=type=tmpfs,target=/t,size=1m dd if=/dev/zero of=/t/x bs=64k count=64 \
             2>/dev/null || echo full at $(stat -c %s /t/x)\n",
    ))?;
    context.file("f", "of the context\n")?;
    let outcome = world.build(&context).run()?.succeeded();
    let log = outcome.log();
    assert!(log.contains("touch: /ctx/x: Read-only file system\n"), "{log}");
    assert!(log.contains("of the context\nmore\nof the context\n"), "{log}");
    assert!(log.ends_with("full at 1048576\n"), "{log}");
    assert_eq!(std::fs::read_to_string(context.path().join("f"))?, "of the context\n");
    Ok(())
}

/// Steps that use a secret in every way, and one that fails.
const SECRETS: &str = "\
    RUN --mount=type=secret,id=token sha256sum /run/secrets/token | cut -c1-16; \
        stat -c '%a %u:%g' /run/secrets/token; grep -c ' /run/secrets/token tmpfs' /proc/mounts\n\
    RUN --mount=type=secret,id=token,target=/etc/t,uid=5,gid=6,mode=0440 \
        stat -c '%a %u:%g' /etc/t; echo x 2>/dev/null > /etc/t || echo read-only\n\
    RUN --mount=type=secret,id=token,env=TOKEN echo -n $TOKEN | sha256sum | cut -c1-16; \
        test ! -e /run/secrets\n\
    RUN --mount=type=secret,id=none test ! -e /run/secrets/none && echo none\n\
    RUN test ! -e /run/secrets && test ! -e /etc/t && test -z \"$TOKEN\" && echo gone\n";

#[test]
fn a_secret_is_in_the_step_and_nowhere_else() -> Result<()> {
    let world = World::new()?;
    let file = world.out.path().join("token");
    std::fs::write(&file, SECRET)?;
    let failing = "RUN --mount=type=secret,id=token --mount=type=secret,id=token,env=TOKEN \
                   cp /run/secrets/token /dev/shm/ && exit 3\n";
    let context = Context::new(&dockerfile(&format!("{SECRETS}{failing}")))?;
    let build = |context: &Context| {
        let build =
            world.build(context).option("--secret", format!("id=token,src={}", file.display()));
        build.arg("--why").option("--metadata-file", world.out.path().join("metadata"))
    };
    let outcome = build(&context).run()?.ended(exit::BUILD);
    let digest =
        run(&mut command("sh", ["-c", &format!("printf %s {SECRET} | sha256sum | cut -c1-16")]))?;
    let expected = format!("{digest}400 0:0\n1\n440 5:6\nread-only\n{digest}none\ngone\n");
    assert_eq!(outcome.log(), expected, "{}", outcome.report());

    let context = Context::new(&dockerfile(SECRETS))?;
    let (_, config) = {
        let reference = world.registry.reference("secret:1");
        let outcome = build(&context).option("-t", &reference).arg("--push").run()?.succeeded();
        assert!(!outcome.report().contains(SECRET));
        let directory = world.out.path().join("pulled");
        let layout = world.registry.pull("secret:1", &directory)?;
        (directory, layout.image(&cofferdam_tests::bases::oci_architecture()?)?.config)
    };
    assert!(!config.to_string().contains(SECRET));
    let events = format!("{:?}", outcome.events);
    assert!(!events.contains(SECRET) && !outcome.text.contains(SECRET));
    std::fs::remove_file(&file)?;
    world.cofferdam.settle()?;
    assert_eq!(find(world.cofferdam.home(), SECRET)?, Vec::<String>::new());
    assert_eq!(find(world.out.path(), SECRET)?, Vec::<String>::new());

    // Another value is no other step.
    std::fs::write(&file, "another")?;
    let again = build(&context).varies("the secret has another value").run()?.succeeded();
    assert_eq!(again.executed(), Vec::<String>::new());
    Ok(())
}

#[test]
fn what_is_not_lent_is_named() -> Result<()> {
    let world = World::new()?;
    for (mount, says) in [
        ("secret,id=token,required", "the secret `token` is needed for `/run/secrets/token`"),
        (
            "secret,id=token,env=TOKEN,required",
            "the secret `token` is needed for the environment variable `TOKEN`",
        ),
        ("ssh,required", "the ssh agent `default` is needed"),
    ] {
        let outcome = world.mounted(&format!("RUN --mount=type={mount} true\n"), &[])?;
        let outcome = outcome.ended(exit::USER);
        outcome.says(&[says, "hint: lend it: --s", "Dockerfile:3"]);
    }
    let optional = "RUN --mount=type=ssh test -n \"$SSH_AUTH_SOCK\" && test ! -e $SSH_AUTH_SOCK\n";
    let _ = world.mounted(optional, &[])?.succeeded();
    for (flags, says) in [
        (["--secret", "id=a,src=/nonexistent/x"], "cannot read `/nonexistent/x`"),
        (["--secret", "src=/etc/passwd"], "`id` is missing"),
        (["--ssh", "default"], "SSH_AUTH_SOCK is not set"),
        (["--ssh", "default=/etc/passwd"], "is no key that can be used"),
    ] {
        world.mounted("RUN true\n", &flags)?.ended(exit::USER).says(&[says]);
    }
    // A text that no variable can have is not shown.
    let file = world.out.path().join("binary");
    std::fs::write(&file, format!("{SECRET}\0{SECRET}"))?;
    let secret = format!("id=a,src={}", file.display());
    let run = "RUN --mount=type=secret,id=a,env=A true\n";
    let outcome = world.mounted(run, &["--secret", &secret])?.ended(exit::USER);
    outcome.says(&["secret `a` for `A`: it is no text"]);
    assert!(!outcome.report().contains(SECRET));
    Ok(())
}

/// An agent of OpenSSH with one key, ended when dropped.
pub(crate) struct Agent {
    process: Child,
    directory: tempfile::TempDir,
}

impl Agent {
    pub(crate) fn start() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let socket = directory.path().join("socket");
        let process = Command::new("ssh-agent")
            .args(["-D", "-a"])
            .arg(&socket)
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start ssh-agent (Debian package openssh-client)")?;
        let agent = Self { process, directory };
        while !socket.exists() {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let key = agent.key();
        run(command("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-C", "of-the-test", "-f"])
            .arg(&key))?;
        run(command("ssh-add", ["-q"]).arg(&key).env("SSH_AUTH_SOCK", &socket))?;
        Ok(agent)
    }

    pub(crate) fn socket(&self) -> std::path::PathBuf {
        self.directory.path().join("socket")
    }

    fn key(&self) -> std::path::PathBuf {
        self.directory.path().join("key")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A context with this machine's `ssh-add` in `ssh/`, and a script `ssh-add` that runs it.
fn with_ssh_add(dockerfile: &str) -> Result<Context> {
    let context = Context::new(dockerfile)?;
    let program = Path::new("/usr/bin/ssh-add");
    context.copy("ssh/ssh-add", program)?.mode("ssh/ssh-add", 0o755)?;
    let libraries = run(&mut command("ldd", [program]))?;
    let paths = libraries.split_whitespace().filter(|word| word.starts_with('/'));
    let mut loader = String::new();
    for path in paths {
        let name = Path::new(path).file_name().context("a library has a name")?.to_string_lossy();
        context
            .copy(&format!("ssh/{name}"), Path::new(path))?
            .mode(&format!("ssh/{name}"), 0o755)?;
        if name.starts_with("ld-") {
            loader = name.into_owned();
        }
    }
    let script = format!("#!/bin/sh\nexec /ssh/{loader} --library-path /ssh /ssh/ssh-add \"$@\"\n");
    context.file("ssh/run", script)?.mode("ssh/run", 0o755)?;
    Ok(context)
}

#[test]
fn an_agent_can_sign_and_be_asked_for_keys_only() -> Result<()> {
    let world = World::new()?;
    let agent = Agent::start()?;
    let context = with_ssh_add(&dockerfile(
        "COPY ssh /ssh\n\
         RUN --mount=type=ssh /ssh/run -L; /ssh/run -T /ssh/key.pub && echo signed; \
             /ssh/run -D 2>&1; /ssh/run -L; stat -c '%a %u:%g' $SSH_AUTH_SOCK\n\
         RUN --mount=type=ssh,id=other,target=/a,uid=5,gid=6,mode=0666 \
             SSH_AUTH_SOCK=/a /ssh/run -L; stat -c '%a %u:%g' /a\n\
         RUN test -z \"$SSH_AUTH_SOCK\"; test ! -e /run/buildkit; test ! -e /a; \
             ! grep -q cofferdam-ssh /proc/net/unix; echo none\n",
    ))?;
    let public = std::fs::read_to_string(agent.key().with_extension("pub"))?;
    context.file("ssh/key.pub", &public)?;
    let key = format!("other={}", agent.key().display());
    let build = || {
        let build = world.build(&context).varies("the agent's sockets differ");
        build.env("SSH_AUTH_SOCK", agent.socket())
    };
    let outcome = build().option("--ssh", "default").option("--ssh", &key).run()?.succeeded();
    let log = outcome.log();
    let listed = public.trim_end();
    let (first, rest) = log.split_once("signed\n").context(outcome.report())?;
    assert_eq!(first.trim_end(), listed);
    assert!(rest.starts_with("Failed to remove all identities.\n"), "{rest}");
    assert!(rest.contains(&format!("{listed}\n600 0:0\n")), "still there: {rest}");
    assert!(rest.contains("666 5:6\nnone\n"), "{rest}");
    // The key of a file has that file's comment, and is nowhere in the state directory.
    assert_eq!(rest.matches(listed.split(' ').nth(1).unwrap_or_default()).count(), 2, "{rest}");
    let private = std::fs::read_to_string(agent.key())?;
    let line = private.lines().nth(2).context("a key has several lines")?;
    world.cofferdam.settle()?;
    assert_eq!(find(world.cofferdam.home(), line)?, Vec::<String>::new());

    // An agent that is gone is told of.
    let socket = agent.socket();
    let gone = format!("default={}", socket.display());
    let context = Context::new(&dockerfile("RUN --mount=type=ssh true\n"))?;
    let kept = std::fs::rename(&socket, socket.with_extension("kept"));
    kept?;
    drop(std::os::unix::net::UnixListener::bind(&socket)?);
    let outcome = world.build(&context).option("--ssh", &gone).run()?.ended(exit::USER);
    outcome.says(&["the ssh agent `default` at `", "does not answer"]);
    Ok(())
}

#[test]
fn a_failed_step_is_entered_with_its_caches_and_with_secrets_lent_again() -> Result<()> {
    let world = World::new()?;
    let file = world.out.path().join("token");
    std::fs::write(&file, SECRET)?;
    let run = "RUN --mount=type=cache,target=/c --mount=type=secret,id=token,required \
               --mount=type=secret,id=token,env=TOKEN,required echo kept > /c/f; exit 3\n";
    let secret = format!("id=token,src={}", file.display());
    let _ = world.mounted(run, &["--secret", &secret])?.ended(exit::BUILD);
    let debugged = world.debugged(&["--", "true"])?.ended(2);
    debugged.says(&["the secret `token` is needed", "hint: lend it: --secret id=token"]);
    let script =
        "cat /c/f; cmp /run/secrets/token /dev/stdin; echo $TOKEN | wc -c; echo more > /c/g";
    let debugged = world.debugged(&["--secret", &secret, "--", "sh", "-c", script])?.ended(0);
    assert_eq!(debugged.stdout().lines().next(), Some("kept"), "{}", debugged.stderr());
    let outcome =
        world.mounted("RUN --mount=type=cache,target=/c cat /c/f /c/g\n", &[])?.succeeded();
    assert_eq!(outcome.log(), "kept\nmore\n");
    Ok(())
}
