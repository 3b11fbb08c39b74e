//! Privileges that a build was not granted: by every way in which a process can be started, and by
//! numbers that the protocol does not know.

use anyhow::Result;
use cofferdam_tests::cofferdam::exit;
use cofferdam_tests::{Context, Outcome};

use crate::llb::{Chain, field, number, shell};
use crate::{World, guest, with_options, works};

/// A context from which a graph's root file system is taken.
pub(crate) fn root() -> Result<Context> {
    let context = Context::new("")?;
    let busybox = busybox()?;
    context.file("bin/busybox", busybox)?.mode("bin/busybox", 0o755)?;
    for name in ["sh", "grep", "cat", "ls", "echo"] {
        context.link(&format!("bin/{name}"), "busybox")?;
    }
    Ok(context)
}

/// The program busybox of the base image.
pub(crate) fn busybox() -> Result<Vec<u8>> {
    use std::io::Read as _;
    let layout = cofferdam_tests::bases::busybox()?;
    let image = layout.image(&cofferdam_tests::bases::oci_architecture()?)?;
    for layer in layout.layers(&image)? {
        for entry in tar::Archive::new(&layer[..]).entries()? {
            let mut entry = entry?;
            if entry.path_bytes().as_ref() == b"bin/busybox" {
                let mut program = Vec::new();
                entry.read_to_end(&mut program)?;
                return Ok(program);
            }
        }
    }
    anyhow::bail!("the base image has no busybox")
}

/// What became of graphs that no Dockerfile can say.
pub(crate) struct Tried {
    pub(crate) outcome: Outcome,
    /// A line for each graph: that it was built, or why not.
    pub(crate) answers: Vec<String>,
}

impl Tried {
    /// How many were built.
    pub(crate) fn built(&self) -> usize {
        self.answers.iter().filter(|answer| answer.ends_with(": built")).count()
    }
}

/// Builds graphs in a context.
pub(crate) fn graphs(world: &World, context: &Context, tries: &[String]) -> Result<Tried> {
    let out = tempfile::tempdir()?;
    let build = world.build(context)?.option("--frontend", guest("attack-raw-llb")?);
    let build = build.option("--output", out.path());
    let outcome = with_options(build, "--opt", tries).run()?.succeeded();
    crate::lives_on(&outcome);
    let answers = std::fs::read_to_string(out.path().join("answers"))?;
    if answers.contains(crate::SECRET) {
        works(format!("an error shows what is the host's:\n{answers}"));
    }
    let answers: Vec<String> = answers.lines().map(str::to_owned).collect();
    assert_eq!(answers.len(), tries.len(), "{answers:#?}");
    Ok(Tried { outcome, answers })
}

/// The same, in a context with busybox.
pub(crate) fn raw(world: &World, tries: &[String]) -> Result<Tried> {
    graphs(world, &root()?, tries)
}

#[track_caller]
fn refused(outcome: &Outcome, entitlement: &str) {
    let said = outcome.report();
    if outcome.code == Some(exit::OK) || outcome.log().contains("it ran") {
        works(format!("{entitlement} is not granted, and yet:\n{said}"));
    }
    assert!(said.contains(entitlement), "it does not say what is missing:\n{said}");
}

/// An interface that starts processes forgets to ask whether the build may have what it wants.
/// If that works, `it ran` is in the log. The ways that there are: a step of a Dockerfile, of a base
/// image's ONBUILD, of a named context and of another frontend; a step whose result is known
/// already; a step of a WASI program; and the shell in a step that failed.
#[test]
fn cve_2024_23653_every_way_to_start_a_process_asks_first() -> Result<()> {
    let world = World::new()?;
    let devices = tempfile::tempdir()?;
    let description = "cdiVersion: 0.6.0\nkind: vendor.com/class\n\
                       devices: [{name: all, containerEdits: {env: [DEVICE=1]}}]\n";
    std::fs::write(devices.path().join("vendor.yaml"), description)?;
    let devices = devices.path().to_str().expect("it is UTF-8");
    let device = "--device=vendor.com/class=all,required";
    let privileges = [
        ("--security=insecure", "security.insecure"),
        ("--network=host", "network.host"),
        (device, "device"),
    ];
    let described = |arguments: &[&'static str]| [&["--cdi-spec-dir", devices], arguments].concat();
    let onbuild = |flag: &str| serde_json::json!({"OnBuild": [format!("RUN {flag} echo it ran")]});
    for (flag, entitlement) in privileges {
        let plain = format!("FROM busybox\nRUN {flag} echo it ran\n");
        refused(&world.run(&plain, &described(&[]))?, entitlement);
        // Another grant is no grant.
        let other = privileges.iter().find(|(_, other)| *other != entitlement).expect("three");
        refused(&world.run(&plain, &described(&["--allow", other.1]))?, entitlement);

        let name = entitlement.replace('.', "-");
        let base = world.image(&name, onbuild(flag), &[])?;
        let arguments = ["--cdi-spec-dir", devices, "--build-context", &base];
        refused(&world.run(&format!("FROM {name}\n"), &arguments)?, entitlement);

        // Once it is granted it runs, and is in the cache; then it is not granted any more.
        let granted = world.run(&plain, &described(&["--allow", entitlement]))?.succeeded();
        assert!(granted.log().contains("it ran"), "{}", granted.report());
        refused(&world.run(&plain, &described(&[]))?, entitlement);

        // The shell in a failed step.
        let failing = format!("FROM busybox\nRUN {flag} echo failing && exit 3\n");
        let _ = world.run(&failing, &described(&["--allow", entitlement]))?.ended(exit::BUILD);
        for grant in [&[][..], &["--allow", other.1]] {
            let arguments =
                [&["debug", "--cdi-spec-dir", devices][..], grant, &["--", "echo", "it ran"]]
                    .concat();
            let output = world.command(&arguments, b"")?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            if String::from_utf8_lossy(&output.stdout).contains("it ran") {
                works(format!("a shell with {entitlement}, which is not granted"));
            }
            assert!(said.contains(entitlement), "{said}");
        }
        let granted = ["--allow", entitlement, "--", "echo", "it ran"];
        let allowed = [&["debug", "--cdi-spec-dir", devices][..], &granted].concat();
        let output = world.command(&allowed, b"")?;
        assert_eq!(String::from_utf8_lossy(&output.stdout), "it ran\n");
    }

    // Another frontend, by what it hands over.
    let ways = [
        ("insecure", shell("echo it ran", "/", &number(4, 1)), "security.insecure"),
        ("host", shell("echo it ran", "/", &number(3, 1)), "network.host"),
        (
            "device",
            shell("echo it ran", "/", &field(6, field(1, "vendor.com/class=all"))),
            "device",
        ),
    ];
    for (name, op, entitlement) in ways {
        let tried = raw(&world, &[Chain::context().then(op).option(name)])?;
        let answer = &tried.answers[0];
        if tried.outcome.log().contains("it ran") || tried.built() > 0 {
            works(format!("{entitlement} is not granted, and yet: {answer}"));
        }
        assert!(answer.contains(entitlement), "{answer}");
    }

    // Another device than the one that is granted, and what is no name of one.
    for device in ["vendor.com/class", "vendor.com/class=*", "vendor.com/class=all", "/dev/kmsg"] {
        let dockerfile = format!("FROM busybox\nRUN --device={device} echo it ran\n");
        let outcome =
            world.run(&dockerfile, &described(&["--allow", "device=vendor.com/class=other"]))?;
        if outcome.log().contains("it ran") {
            works(format!("a step has the device {device}"));
        }
    }

    // A step that is a WASI program.
    let context = Context::new(
        "FROM scratch\nCOPY probe-c.wasm /\nRUN --network=host [\"/probe-c.wasm\", \"/\"]\n",
    )?;
    context.copy("probe-c.wasm", &guest("probe-c")?)?;
    let outcome = world.build(&context)?.option("--platform", "wasi/wasm").run()?;
    refused(&outcome, "network.host");
    Ok(())
}

/// A number that an enum of the protocol does not have is read as some mode: without seccomp, in
/// BuildKit's case. Here every enum, with 99 and with -1, is refused before anything runs; and a
/// step says that its filter is on.
#[test]
fn ghsa_7236_3392_c5c6_unknown_modes_are_refused() -> Result<()> {
    let world = World::new()?;
    let script = "echo it ran; grep Seccomp: /proc/self/status";
    let mount =
        |more: Vec<u8>| field(2, [number(1, -1), field(3, "/m"), number(4, -1), more].concat());
    let mut tries = Vec::new();
    for value in [99, -1, i64::MAX, i64::MIN] {
        let cache =
            |sharing| [number(6, 3), field(20, [field(1, "id"), sharing].concat())].concat();
        let fields = [
            ("network", number(3, value)),
            ("security", number(4, value)),
            ("mount", mount(number(6, value))),
            ("sharing", mount(cache(number(2, value)))),
            ("content", mount(number(24, value))),
        ];
        for (name, more) in fields {
            let op = shell(script, "/", &more);
            tries.push(Chain::context().then(op).option(&format!("{name}{value}")));
        }
    }
    let count = tries.len();
    tries.push(Chain::context().then(shell(script, "/", &[])).option("known"));
    let tried = raw(&world, &tries)?;
    let unknown =
        |answer: &&String| answer.contains(": refused: ") && answer.contains("unknown value");
    if tried.answers.iter().filter(unknown).count() != count {
        works(format!("an unknown number is taken: {:#?}", tried.answers));
    }
    assert_eq!(tried.built(), 1, "{:#?}", tried.answers);
    let log = tried.outcome.log();
    let squeezed = log.split_whitespace().collect::<Vec<_>>().join(" ");
    if log.matches("it ran").count() != 1 || !squeezed.contains("Seccomp: 2") {
        works(format!("a step runs without its filter:\n{log}"));
    }
    Ok(())
}
