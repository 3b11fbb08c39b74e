//! `/etc/passwd` and `/etc/group` of an image, which the engine reads to know who a user is.

use anyhow::Result;
use cofferdam_tests::Context;
use cofferdam_tests::cofferdam::exit;

use crate::unpacking::measured;
use crate::{World, works};

/// An image has eight gigabytes of zeros as its user database, or a pipe that nobody writes to, or a
/// link to a device without end. The engine that reads it whole runs out of memory or waits for
/// ever; one that opens it on the host follows the link. The look-up has to fail at once, in no
/// more memory than any other.
#[test]
fn cve_2026_47262_cve_2024_9676_user_databases_without_end() -> Result<()> {
    let world = World::new()?;
    let ordinary = |last: &str| -> Result<Context> {
        let context = Context::new(&format!("FROM busybox\nRUN true\n{last}\n"))?;
        context.file("f", "")?;
        Ok(context)
    };
    let lookups = [
        "USER builder\nRUN echo it ran",
        "USER builder:staff\nRUN echo it ran",
        "USER 0:staff\nRUN echo it ran",
        "COPY --chown=builder f /f",
        "COPY --chown=builder:staff f /f",
        "USER builder\nWORKDIR /new",
    ];
    let mut usual = 0;
    for lookup in lookups {
        let taken = measured(&world, &ordinary(lookup)?, &[])?;
        assert_eq!(taken.status.code(), Some(exit::OK), "{}", taken.said);
        usual = usual.max(taken.memory);
    }
    let databases = [
        ("8 GiB", "truncate -s 8G"),
        ("11 MiB", "truncate -s 11M"),
        ("a pipe", "mkfifo"),
        ("a link to zeros", "ln -s /dev/zero"),
        ("a link to a pipe", "mkfifo /etc/pipe; ln -s pipe"),
        ("a device", "mknod -m 666 DEVICE c 1 5; true"),
        ("a link to itself", "ln -s passwd"),
        ("a directory", "mkdir"),
    ];
    for (name, make) in databases {
        let make = |file: &str| match make.contains("DEVICE") {
            true => make.replace("DEVICE", file),
            false => format!("{make} {file}"),
        };
        for lookup in lookups {
            let context = ordinary(lookup)?;
            let group = if name == "a link to itself" {
                "ln -s group /etc/group"
            } else {
                &make("/etc/group")
            };
            let dockerfile = format!(
                "FROM busybox\nRUN rm /etc/passwd /etc/group; {}; {group}\n{lookup}\n",
                make("/etc/passwd")
            );
            context.file("Dockerfile", dockerfile)?;
            let taken = measured(&world, &context, &[])?;
            let more = taken.memory.saturating_sub(usual);
            if more > 64 << 20 {
                works(format!("{name}, {lookup:?}: {} MiB more memory", more >> 20));
            }
            if taken.status.success()
                && lookup.starts_with("USER builder")
                && lookup.contains("RUN")
            {
                works(format!("{name}, {lookup:?}: somebody is found:\n{}", taken.said));
            }
        }
    }
    Ok(())
}

/// The home directory of a numeric user is looked up in the step's own file system, too.
#[test]
fn cve_2026_47262_home_directories_of_strange_databases() -> Result<()> {
    let world = World::new()?;
    for make in ["truncate -s 8G", "mkfifo", "ln -s /dev/zero", "ln -s /proc/kcore", "mkdir"] {
        let context = Context::new(&format!(
            "FROM busybox\nRUN rm /etc/passwd /etc/group; {make} /etc/passwd\n\
             RUN echo home of nobody $HOME\nUSER 7\nRUN echo home of seven $HOME\n"
        ))?;
        let taken = measured(&world, &context, &[])?;
        // To refuse the image is right, too.
        if taken.status.success() {
            assert!(taken.said.contains("home of seven /\n"), "{}", taken.said);
        }
        if taken.memory > 512 << 20 {
            works(format!("{make}: {} bytes of memory", taken.memory));
        }
    }
    Ok(())
}
