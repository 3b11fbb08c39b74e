//! Registries that refuse, break off or lie: a clear message, the network's exit code, nothing
//! wrong in the store, and the next build works.

use anyhow::Result;
use cofferdam_tests::cofferdam::exit;
use cofferdam_tests::{Context, Fault, FaultyRegistry, Port, bases};

use crate::World;

const DOCKERFILE: &str = "ARG REGISTRY\nFROM ${REGISTRY}/busybox:latest\nRUN echo it works\n";

#[test]
fn lasting_faults_are_named_and_leave_nothing_behind() -> Result<()> {
    let cases: [(&str, Fault, &[&str]); 7] = [
        ("/manifests/", Fault::Status(403), &["denied"]),
        ("/manifests/", Fault::Status(500), &["500"]),
        ("/manifests/", Fault::WrongByte(0), &[]),
        ("/blobs/", Fault::Status(403), &["denied"]),
        ("/blobs/", Fault::Reset(100_000), &[]),
        ("/blobs/", Fault::Truncate(100_000), &[]),
        ("/blobs/", Fault::WrongByte(0), &["digest"]),
    ];
    let layer = bases::busybox_layer_digest()?;
    for (path, fault, says) in cases {
        let world = World::new()?;
        let proxy = FaultyRegistry::start(&world.registry)?;
        let context = Context::new(DOCKERFILE)?;
        let build = || {
            let cofferdam = &world.cofferdam;
            cofferdam.build(context.path()).build_arg("REGISTRY", proxy.address()).run()
        };
        // Of the blobs, the layer: the config is too short to break off in.
        let path = if path == "/blobs/" { format!("/blobs/{layer}") } else { path.to_owned() };
        proxy.spoil(&format!("GET {path}"), fault.clone(), usize::MAX);
        let failed = build()?;
        assert_eq!(failed.code, Some(exit::NETWORK), "{fault:?} at {path}:\n{}", failed.report());
        failed.says(&[&proxy.address().to_string()]);
        failed.says(says);
        assert!(!failed.log().contains("it works"), "{fault:?} at {path} went into a step");
        proxy.heal();
        let healed = build()?.succeeded();
        assert!(healed.log().contains("it works"));
    }
    Ok(())
}

#[test]
fn one_broken_transfer_is_tried_again() -> Result<()> {
    let layer = bases::busybox_layer_digest()?;
    for fault in [Fault::Reset(100_000), Fault::Truncate(100_000), Fault::Status(503)] {
        let world = World::new()?;
        let proxy = FaultyRegistry::start(&world.registry)?;
        proxy.spoil(&format!("GET {layer}"), fault.clone(), 1);
        let context = Context::new(DOCKERFILE)?;
        let build = world.cofferdam.build(context.path());
        let outcome = build.build_arg("REGISTRY", proxy.address()).run()?;
        assert_eq!(outcome.code, Some(exit::OK), "{fault:?}:\n{}", outcome.report());
        let asked = proxy.requests().iter().filter(|request| request.contains(&layer)).count();
        assert!(asked >= 2, "{fault:?}: asked for the layer {asked} times");
    }
    Ok(())
}

#[test]
fn a_registry_that_is_not_there_is_named() -> Result<()> {
    let world = World::new()?;
    let port = Port::reserve()?;
    let nobody = port.address();
    let context = Context::new(DOCKERFILE)?;
    let build = world.cofferdam.build(context.path()).build_arg("REGISTRY", nobody);
    build.run()?.ended(exit::NETWORK).says(&[&nobody.to_string(), "busybox"]);
    let _ = world.build(&context).run()?.succeeded();
    Ok(())
}

#[test]
fn an_unknown_image_is_named() -> Result<()> {
    let world = World::new()?;
    let context = Context::new("ARG REGISTRY\nFROM ${REGISTRY}/nosuch:tag\nRUN true\n")?;
    world.build(&context).run()?.ended(exit::NETWORK).says(&["nosuch:tag", "not found"]);
    Ok(())
}

#[test]
fn an_unchanged_base_is_not_pulled_again() -> Result<()> {
    let layer = bases::busybox_layer_digest()?;
    let world = World::new()?;
    let proxy = FaultyRegistry::start(&world.registry)?;
    let context = Context::new(DOCKERFILE)?;
    for _ in 0..2 {
        let build = world.cofferdam.build(context.path());
        let build = build.varies("another state directory would pull once more");
        let _ = build.build_arg("REGISTRY", proxy.address()).run()?.succeeded();
    }
    let pulls = proxy.requests().iter().filter(|r| r.contains(&layer)).count();
    assert_eq!(pulls, 1, "{:?}", proxy.requests());
    Ok(())
}
