//! What RUN steps reach: the outside and this machine's own addresses, but neither its loopback
//! nor each other; by which names; and that nothing of it is left.

use std::fs;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use cofferdam_tests::cofferdam::exit;
use cofferdam_tests::network::{host_address, name_server, traces};
use cofferdam_tests::{Build, Context, Web, WebAnswer, needs_root};

use crate::World;

fn dockerfile(steps: &str) -> Result<Context> {
    Context::new(&format!("ARG REGISTRY\nFROM ${{REGISTRY}}/busybox\n{steps}"))
}

fn with_config(world: &World, build: Build, config: &str) -> Result<Build> {
    let file = world.out.path().join(format!("{}.toml", config.len()));
    fs::write(&file, config)?;
    Ok(build.option("--config", file))
}

fn servers() -> Result<(Web, Web)> {
    let public = Web::start_on(host_address()?, |_| WebAnswer::body("public\n"))?;
    Ok((public, Web::start(|_| WebAnswer::body("private\n"))?))
}

/// A step that fetches from both servers.
fn fetch(flag: &str, (public, private): &(Web, Web)) -> String {
    format!(
        "RUN {flag} for url in {} {}; do wget -q -O - $url || echo nothing; done\n",
        public.url("/"),
        private.url("/")
    )
}

#[test]
fn a_step_reaches_this_machine_but_not_its_loopback() -> Result<()> {
    let world = World::new()?;
    let servers = servers()?;
    let own = dockerfile(&fetch("", &servers))?;
    let log = world.build(&own).run()?.succeeded().log();
    assert!(log.contains("public\n") && log.contains("nothing\n"), "{log}");
    assert!(!log.contains("private"), "{log}");

    let host = dockerfile(&fetch("--network=host", &servers))?;
    let denied = world.build(&host).run()?.ended(exit::USER);
    denied.says(&["network.host", "--allow network.host"]);
    let log = world.build(&host).option("--allow", "network.host").run()?.succeeded().log();
    assert!(log.contains("public\n") && log.contains("private\n"), "{log}");
    // For all steps at once, which grants it.
    let all = |network| world.build(&own).arg("--no-cache").option("--network", network);
    let log = all("host").run()?.succeeded().log();
    assert!(log.contains("public\n") && log.contains("private\n"), "{log}");
    let log = all("none").run()?.succeeded().log();
    assert!(!log.contains("public") && !log.contains("private"), "{log}");
    Ok(())
}

#[test]
fn steps_at_once_do_not_reach_each_other() -> Result<()> {
    let world = World::new()?;
    let context = Context::new(
        "ARG REGISTRY\nFROM ${REGISTRY}/busybox AS base\n\
         FROM base AS server\n\
         RUN --mount=type=cache,target=/c ip -o -4 addr show eth0 | sed 's|.*inet ||; s|/.*||' > /c/new; \
             (while :; do echo reached | nc -l -p 80; done) & mv /c/new /c/address; \
             while ! test -e /c/done; do sleep 0.1; done; kill $!\n\
         FROM base\n\
         RUN --mount=type=cache,target=/c while ! test -e /c/address; do sleep 0.1; done; \
             echo server $(cat /c/address); nc -w 3 $(cat /c/address) 80 </dev/null; touch /c/done\n\
         COPY --from=server /etc/passwd /etc/passwd\n",
    )?;
    let build = world.build(&context).varies("the steps meet in a cache").run()?.succeeded();
    let log = build.log();
    let mut after = log.split("server ").skip(1).filter_map(|rest| rest.split_whitespace().next());
    assert!(after.any(|word| word.parse::<Ipv4Addr>().is_ok()), "{log}");
    assert!(!log.contains("reached"), "{log}");
    Ok(())
}

#[test]
fn sixteen_steps_of_two_engines_have_addresses_of_their_own() -> Result<()> {
    if needs_root("addresses of the host's") {
        return Ok(());
    }
    let world = World::new()?;
    // None ends before all have begun.
    let begun = AtomicUsize::new(0);
    let meeting = Web::start_on(host_address()?, move |_| {
        let (started, own) = (Instant::now(), begun.fetch_add(1, Ordering::SeqCst) + 1);
        while begun.load(Ordering::SeqCst) < 32 && started.elapsed() < Duration::from_secs(120) {
            thread::sleep(Duration::from_millis(10));
        }
        WebAnswer::body(format!("{own}\n"))
    })?;
    let mut text = "ARG REGISTRY\nFROM ${REGISTRY}/busybox AS base\n".to_owned();
    for stage in 0..16 {
        let meet = format!("wget -q -O - {}", meeting.url("/"));
        text += &format!(
            "FROM base AS s{stage}\nRUN echo {stage} $(ip -o -4 addr show eth0); {meet}\n"
        );
    }
    text += "FROM scratch\n";
    for stage in 0..16 {
        text += &format!("COPY --from=s{stage} /etc/passwd /{stage}\n");
    }
    let context = Context::new(&text)?;
    let other = world.cofferdam.copy()?;
    let another = other.build(context.path()).build_arg("REGISTRY", world.registry.address());
    let builds = [world.build(&context), another].map(|build| build.varies("two at once").spawn());
    let mut addresses = Vec::new();
    for build in builds {
        let log = build?.finish()?.succeeded().log();
        let lines = log.lines().filter_map(|line| line.split_once("inet "));
        addresses.extend(lines.map(|(_, line)| line.split('/').next().unwrap_or("").to_owned()));
    }
    assert_eq!(addresses.len(), 32, "{addresses:?}");
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 32, "{addresses:?}");
    Ok(())
}

#[test]
fn names_are_found() -> Result<()> {
    if needs_root("port 53") {
        return Ok(());
    }
    let world = World::new()?;
    let (host, (public, _private)) = (host_address()?, servers()?);
    let port = public.address().port();
    name_server(host, [("web.cofferdam.example", host)])?;
    let config = format!(
        "[dns]\nnameservers = [\"{host}\"]\nsearchDomains = [\"cofferdam.example\"]\n\
         options = [\"timeout:5\"]\n"
    );
    let context = dockerfile(&format!(
        "RUN cat /etc/resolv.conf; wget -q -O - http://web:{port}/ && echo by server\n\
         RUN grep -E 'extra|gateway' /etc/hosts\n\
         RUN wget -q -O - http://extra:{port}/ && echo by hosts\n\
         RUN wget -q -O - http://gateway:{port}/ && echo by gateway\n\
         RUN --network=none grep extra /etc/hosts\n"
    ))?;
    let build = with_config(&world, world.build(&context), &config)?;
    let build = build.option("--add-host", format!("extra:{host}"));
    let build = build.option("--add-host", "gateway:host-gateway");
    let log = build.run()?.succeeded().log();
    for part in [
        &format!("nameserver {host}\nsearch cofferdam.example\noptions timeout:5\n"),
        "by server",
        "by hosts",
        "by gateway",
        &format!("{host}\tgateway"),
    ] {
        assert!(log.contains(part), "no {part:?} in:\n{log}");
    }
    Ok(())
}

#[test]
fn proxies_are_reached() -> Result<()> {
    let world = World::new()?;
    let proxy = Web::start_on(host_address()?, |request| WebAnswer::body(request.path.clone()))?;
    let context = dockerfile("RUN wget -q -O - http://far.example/page && echo by proxy\n")?;
    let (address, build) = (proxy.url("").clone(), world.build(&context));
    let log = build.build_arg("HTTP_PROXY", address).run()?.succeeded().log();
    assert!(log.contains("/page") && log.contains("by proxy"), "{log}");
    assert_eq!(proxy.asked()[0].headers["host"], "far.example");
    Ok(())
}

#[test]
fn the_network_is_configured() -> Result<()> {
    if needs_root("addresses of the host's") {
        return Ok(());
    }
    let world = World::new()?;
    let servers = servers()?;
    let context = dockerfile(&format!(
        "{}RUN echo links $(ls /sys/class/net) $(ip -o -4 addr show eth0)\n",
        fetch("", &servers)
    ))?;
    // What network there is has no part in a step's cache key.
    let build = |config| with_config(&world, world.build(&context).arg("--no-cache"), config);
    let log = |config| -> Result<String> { Ok(build(config)?.run()?.succeeded().log()) };
    let nat = log("[network]\nmode = \"nat\"\nsubnet = \"10.77.16.0/20\"\n")?;
    let inet = nat.split("inet ").nth(1).unwrap_or_default();
    let address: Ipv4Addr = inet.split('/').next().unwrap_or_default().parse()?;
    assert_eq!(address.octets()[..2], [10, 77], "{nat}");
    let host = log("[network]\nmode = \"host\"\n")?;
    assert!(host.contains("private\n"), "{host}");
    let none = log("[network]\nmode = \"none\"\n")?;
    assert!(none.contains("links lo\n") && !none.contains("public"), "{none}");

    let missing = build("[network]\nmode = \"pasta\"\n")?;
    let missing = missing.env("PATH", "/nonexistent").run()?.ended(exit::CONFIGURATION);
    missing.says(&["looking for the program `pasta`"]);
    let taken = format!("[network]\nmode = \"nat\"\nsubnet = \"{}/24\"\n", host_address()?);
    let taken = build(&taken)?.run()?.ended(exit::CONFIGURATION);
    taken.says(&["choosing a subnet for steps", "overlaps with the host's route to"]);
    let wrong = build("[network]\nmode = \"bridge\"\n")?;
    wrong
        .run()?
        .ended(exit::CONFIGURATION)
        .says(&["toml:2: unknown variant `bridge`, expected one of"]);
    Ok(())
}

#[test]
fn who_gets_the_hosts_network_unasked_is_told() -> Result<()> {
    if needs_root("addresses of the host's") {
        return Ok(());
    }
    let world = World::new()?;
    let config = world.out.path().join("taken.toml");
    fs::write(&config, format!("[network]\nsubnet = \"{}/24\"\n", host_address()?))?;
    // Nor is there a program that imitates the outside.
    let context = dockerfile("RUN false\n")?;
    let build = world.build(&context).option("--config", &config);
    let told = ["steps share the host's network", "overlaps with the host's route"];
    let failed = build.env("PATH", "/nonexistent").run()?.ended(exit::BUILD);
    let mut warnings = failed.warnings();
    let tells = |warning: &str| told.iter().all(|part| warning.contains(part));
    assert!(warnings.any(tells), "{}", failed.report());
    let mut debug = world.debug(&["--config"]);
    let entered = debug.arg(&config).args(["--", "true"]).env("PATH", "/nonexistent").output()?;
    let said = String::from_utf8_lossy(&entered.stderr);
    assert!(told.iter().all(|part| said.contains(part)), "{said}");
    Ok(())
}

/// The address that a step has printed.
fn address(log: &str) -> Result<Ipv4Addr> {
    let inet = log.split("inet ").nth(1).unwrap_or_default();
    Ok(inet.split('/').next().unwrap_or_default().parse()?)
}

fn wait_until_gone(engine: u32, step: Ipv4Addr) -> Result<()> {
    let started = Instant::now();
    // The kernel removes namespaces in the background.
    loop {
        let left = traces(engine, &[step])?;
        if left.is_empty() {
            return Ok(());
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{left:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn nothing_is_left_of_an_engine() -> Result<()> {
    if needs_root("interfaces and rules") {
        return Ok(());
    }
    let world = World::new()?;
    let forwarding = || fs::read_to_string("/proc/sys/net/ipv4/ip_forward");
    let before = forwarding()?;
    let text = |then: &str| format!("RUN ip -o -4 addr show eth0; echo up; {then}\n");
    let context = dockerfile(&text("sleep 1000"))?;
    for round in 0..6 {
        let mut build = world.build(&context).varies("it is killed").spawn()?;
        build.wait_for_log("up\n")?;
        let (engine, step) = (build.pid(), address(&build.log())?);
        assert_eq!(traces(engine, &[step])?.len(), 2, "there is something to be removed");
        match round % 2 {
            0 => build.crash()?,
            _ => {
                build.interrupt()?;
                let _ = build.finish()?.ended(exit::INTERRUPTED);
            }
        }
        wait_until_gone(engine, step)?;
    }
    let done = dockerfile(&text("true"))?;
    let build = world.build(&done).varies("its address is in its log").spawn()?;
    let engine = build.pid();
    let log = build.finish()?.succeeded().log();
    wait_until_gone(engine, address(&log)?)?;
    assert_eq!(forwarding()?, before);
    Ok(())
}
