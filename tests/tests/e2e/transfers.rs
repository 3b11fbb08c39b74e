//! Pulls and pushes through a network that fails: what passes is got over, what lasts is told
//! clearly, and no image is ever a wrong one. Digests are those that skopeo finds.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use cofferdam_tests::cofferdam::exit;
use cofferdam_tests::{Cofferdam, Context, Fault, FaultyRegistry, Outcome, Port, Registry, bases};

/// The base is pulled, because a step runs on it; of the layers to push, one is large enough to
/// be sent in parts.
const DOCKERFILE: &str = "ARG REGISTRY\nFROM ${REGISTRY}/busybox:latest\nRUN test -e /bin/sh\n\
                          COPY large /\nCOPY small /\n";

/// Little patience, so that the tests take little time.
const CONFIG: &str = "[transfers]\nfirst-pause = \"10ms\"\nmax-pause = \"5s\"\n\
                      stall-timeout = \"2s\"\n";

/// A registry with a base image, and what the image that is built on it has to be.
struct Ground {
    registry: Registry,
    context: Context,
    expected: String,
    /// A program that has not seen the base image, but has compiled its components.
    fresh: Cofferdam,
}

impl Ground {
    fn new() -> Result<Self> {
        let registry = Registry::start()?;
        registry.push(&bases::busybox()?, "busybox:latest")?;
        let context = Context::new(DOCKERFILE)?;
        context.file("large", noise(1_500_000))?.file("small", "small")?;
        context.file("config.toml", CONFIG)?;
        let fresh = Cofferdam::new()?;
        let nothing = Context::new("FROM scratch\nCOPY Dockerfile /\n")?;
        let _ = fresh.build(nothing.path()).varies("it is not looked at").run()?.succeeded();
        let mut ground = Self { registry, context, expected: String::new(), fresh };
        let honest = FaultyRegistry::start(&ground.registry)?;
        let _ = ground.build(&ground.fresh.copy()?, &honest, "expected:1")?.succeeded();
        ground.expected = ground.registry.digest("expected:1")?;
        Ok(ground)
    }

    /// Pulls the base, builds, and pushes, all through the proxy.
    fn build(&self, with: &Cofferdam, proxy: &FaultyRegistry, name: &str) -> Result<Outcome> {
        let build = with.build(self.context.path()).build_arg("REGISTRY", proxy.address());
        let build = build.option("--config", self.context.path().join("config.toml"));
        let build = build.option("-t", proxy.reference(name)).arg("--push");
        let build = build.env("SOURCE_DATE_EPOCH", "1700000000");
        build.varies("its faults are used up").run()
    }

    fn check(&self, name: &str) -> Result<()> {
        let found = self.registry.digest(name)?;
        ensure!(found == self.expected, "{name} is {found}, not {}", self.expected);
        Ok(())
    }
}

/// Bytes that do not repeat soon and do not compress.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(length).collect()
}

#[test]
fn what_passes_is_got_over() -> Result<()> {
    let past = || "Sun, 06 Nov 1994 08:49:37 GMT".to_owned();
    let later = |status, when: &str| Fault::Later(status, when.to_owned());
    // What is spoilt how; LAYER is the base's. In the order in which it happens.
    let cases: Vec<Vec<(&str, Fault)>> = vec![
        vec![("HEAD /manifests/", Fault::Status(500)), ("HEAD /manifests/", later(429, "1"))],
        vec![("HEAD /manifests/", Fault::Silent)],
        vec![("HEAD /manifests/", Fault::Status(405))],
        vec![("GET /manifests/", Fault::Reset(50)), ("GET /manifests/", Fault::Truncate(50))],
        vec![("GET /manifests/", Fault::Stall(50)), ("GET /manifests/", Fault::WrongByte(3))],
        vec![("GET /manifests/", later(503, &past()))],
        vec![("GET LAYER", Fault::Status(502)), ("GET LAYER", later(429, "1"))],
        vec![("GET LAYER", Fault::Reset(300_000)), ("GET LAYER", Fault::Truncate(300_000))],
        vec![("GET LAYER", Fault::Stall(300_000)), ("GET LAYER", Fault::Reset(100))],
        vec![("GET LAYER", Fault::Reset(300_000)), ("GET LAYER", Fault::NoRange)],
        vec![("GET LAYER", Fault::Reset(300_000)), ("GET LAYER", Fault::Status(416))],
        vec![("GET LAYER", Fault::WrongByte(100))],
        vec![("GET LAYER", Fault::Delay(Duration::from_millis(300)))],
        vec![("POST /uploads/", Fault::Status(503)), ("POST /uploads/", later(429, "1"))],
        vec![("PATCH", Fault::CutUpload(400_000)), ("PATCH", Fault::Status(500))],
        vec![("PATCH", Fault::StallUpload(400_000))],
        vec![("PATCH", Fault::WrongUpload(400_000))],
        vec![("PATCH", Fault::Status(404)), ("PATCH", later(429, "1"))],
        vec![("PATCH", Fault::Unanswered), ("GET /uploads/", Fault::Status(500))],
        vec![("PUT /uploads/", Fault::Status(500)), ("PUT /uploads/", Fault::Unanswered)],
        vec![("PUT /uploads/", Fault::Status(404)), ("PUT /uploads/", Fault::Silent)],
        vec![("PUT /manifests/", Fault::Status(503)), ("PUT /manifests/", later(429, "1"))],
        vec![("PUT /manifests/", Fault::Unanswered), ("PUT /manifests/", Fault::WrongUpload(9))],
        vec![("GET /token", Fault::Status(503)), ("GET /token", later(429, "1"))],
        vec![("GET /token", Fault::Reset(3)), ("HEAD /blobs/", Fault::Revoke)],
        vec![("GET /manifests/", Fault::Revoke), ("GET LAYER", Fault::Revoke)],
        vec![("PATCH", Fault::Revoke), ("PUT /uploads/", Fault::Revoke)],
        vec![("POST", Fault::Revoke), ("PUT /manifests/", Fault::Revoke)],
    ];
    let (ground, layer) = (Ground::new()?, bases::busybox_layer_digest()?);
    for (number, faults) in cases.into_iter().enumerate() {
        let proxy = FaultyRegistry::start(&ground.registry)?;
        proxy.ask_for_tokens();
        for (pattern, fault) in &faults {
            proxy.spoil(&pattern.replace("LAYER", &layer), fault.clone(), 1);
        }
        let name = format!("passing/{number}:1");
        let outcome = ground.build(&ground.fresh.copy()?, &proxy, &name)?;
        assert_eq!(outcome.code, Some(exit::OK), "{faults:?}:\n{}", outcome.report());
        assert_eq!(proxy.left(), 0, "{faults:?} did not happen:\n{:#?}", proxy.requests());
        ground.check(&name)?;
    }
    Ok(())
}

#[test]
fn what_lasts_is_told_and_the_next_build_is_right() -> Result<()> {
    let cases = [
        ("GET /token", Fault::Status(503), "its token server: the registry answered 503"),
        ("PATCH", Fault::CutUpload(400_000), "connection failed"),
        ("PATCH", Fault::WrongUpload(400_000), "the registry received other bytes than were sent"),
        ("PATCH", Fault::Status(404), "the registry lost the upload"),
        ("PATCH", Fault::Later(429, "3600".into()), "asks to wait 3600 seconds"),
        ("PUT /manifests/", Fault::Status(500), "the registry answered 500"),
        ("PUT /manifests/", Fault::Status(403), "access denied: refused by the test"),
    ];
    let ground = Ground::new()?;
    for (number, (pattern, fault, says)) in cases.into_iter().enumerate() {
        let proxy = FaultyRegistry::start(&ground.registry)?;
        proxy.ask_for_tokens();
        proxy.spoil(pattern, fault, usize::MAX);
        let (cofferdam, name) = (ground.fresh.copy()?, format!("lasting/{number}:1"));
        let failed = ground.build(&cofferdam, &proxy, &name)?;
        assert_eq!(failed.code, Some(exit::NETWORK), "{pattern}, {says}:\n{}", failed.report());
        failed.says(&[&format!("registry {}: ", proxy.address()), says]);
        proxy.heal();
        let _ = ground.build(&cofferdam, &proxy, &name)?.succeeded();
        ground.check(&name)?;
    }
    Ok(())
}

/// How many builds go through random faults; `COFFERDAM_TEST_FAULT_BUILDS` asks for more.
const RANDOM_BUILDS: u64 = 150;

#[test]
fn random_faults_never_give_a_wrong_image() -> Result<()> {
    let wanted = std::env::var("COFFERDAM_TEST_FAULT_BUILDS");
    let builds = wanted.ok().and_then(|text| text.parse().ok()).unwrap_or(RANDOM_BUILDS);
    let ground = Ground::new()?;
    let (next, succeeded) = (AtomicU64::new(0), AtomicUsize::new(0));
    let work = || -> Result<()> {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= builds {
                return Ok(());
            }
            let proxy = FaultyRegistry::start(&ground.registry)?;
            proxy.ask_for_tokens();
            proxy.spoil_at_random(seed, [5, 15, 40][seed as usize % 3]);
            let (cofferdam, name) = (ground.fresh.copy()?, format!("random/{seed}:1"));
            let outcome = ground.build(&cofferdam, &proxy, &name)?;
            if outcome.code == Some(exit::OK) {
                succeeded.fetch_add(1, Ordering::Relaxed);
                ground.check(&name).map_err(|error| error.context(format!("seed {seed}")))?;
            } else {
                let report = outcome.report();
                assert_eq!(outcome.code, Some(exit::NETWORK), "seed {seed}:\n{report}");
                let told = outcome.text.contains(&format!("registry {}: ", proxy.address()))
                    && (outcome.text.contains("manifest ") || outcome.text.contains("blob "));
                assert!(told, "seed {seed}:\n{report}");
            }
            proxy.heal();
            let healed = ground.build(&cofferdam, &proxy, &name)?;
            assert_eq!(healed.code, Some(exit::OK), "seed {seed}, healed:\n{}", healed.report());
            ground.check(&name).map_err(|error| error.context(format!("seed {seed}, healed")))?;
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("no panic"))
    })?;
    let succeeded = succeeded.into_inner() as u64;
    println!("{succeeded} of {builds} builds got over their faults");
    assert!(succeeded > builds / 3, "only {succeeded} of {builds} builds got over their faults");
    assert!(succeeded < builds, "the faults were not enough to make any build fail");
    Ok(())
}

#[test]
fn a_mirror_is_used_and_one_that_is_down_costs_nothing() -> Result<()> {
    let ground = Ground::new()?;
    let mirror = Registry::start()?;
    mirror.push(&bases::busybox()?, "copies/busybox:latest")?;
    let (origin, mirror) =
        (FaultyRegistry::start(&ground.registry)?, FaultyRegistry::start(&mirror)?);
    let port = Port::reserve()?;
    let nobody = port.address();
    let config = format!(
        "{CONFIG}[registry.\"{}\"]\nmirrors = [\"{nobody}\", \"{}/copies\"]\n",
        origin.address(),
        mirror.address()
    );
    ground.context.file("config.toml", config)?;
    let outcome = ground.build(&ground.fresh.copy()?, &origin, "mirrored:1")?.succeeded();
    drop(outcome);
    ground.check("mirrored:1")?;
    let of_base = |proxy: &FaultyRegistry| {
        proxy.requests().iter().filter(|request| request.contains("busybox/")).count()
    };
    assert_eq!(of_base(&origin), 0, "{:?}", origin.requests());
    assert!(of_base(&mirror) >= 4, "{:?}", mirror.requests());
    assert!(mirror.requests().iter().all(|r| r.starts_with("GET ") || r.starts_with("HEAD ")));
    Ok(())
}

#[test]
fn a_registry_with_its_own_certificates() -> Result<()> {
    let registry = Registry::start_with_tls()?;
    registry.push(&bases::busybox()?, "busybox:latest")?;
    let context = Context::new(DOCKERFILE)?;
    context.file("large", noise(1_500_000))?.file("small", "small")?;
    let fresh = Cofferdam::new()?;
    let build = |settings: &str| -> Result<Outcome> {
        let text = format!("[registry.\"{}\"]\n{settings}\n", registry.address());
        context.file("config.toml", text)?;
        let cofferdam = fresh.copy()?;
        let build = cofferdam.build(context.path()).build_arg("REGISTRY", registry.address());
        let build = build.option("--config", context.path().join("config.toml"));
        let build = build.option("-t", registry.reference("secure:1")).arg("--push");
        build.varies("the registry's certificates are what it is about").run()
    };
    let (right, wrong) = registry.authorities();
    let _ = build(&format!("ca = [{right:?}]"))?.succeeded();
    let first = registry.digest("secure:1")?;
    assert!(first.starts_with("sha256:"));
    let _ = build("insecure = true")?.succeeded();
    // Trusted by nobody, or by the wrong one; and not spoken to in the clear.
    for settings in ["http = false", &format!("ca = [{wrong:?}]")] {
        let failed = build(settings)?.ended(exit::NETWORK);
        failed.says(&[&registry.address().to_string(), "certificate", "`ca`"]);
    }
    build("http = true")?.ended(exit::NETWORK).says(&[&registry.address().to_string()]);
    build("ca = [\"missing.pem\"]")?.ended(exit::CONFIGURATION).says(&["config.toml:2:"]);
    build("cas = []")?.ended(exit::CONFIGURATION).says(&["config.toml:2:", "unknown field `cas`"]);
    Ok(())
}
