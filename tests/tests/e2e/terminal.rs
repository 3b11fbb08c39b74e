//! The live view in a real terminal: nothing is wrapped, torn or drawn twice, whatever the size,
//! and the terminal is left as it was.

use std::process::Command;

use anyhow::Result;
use cofferdam_tests::cofferdam::exit;
use cofferdam_tests::{Context, needs_root, needs_steps, terminal::Terminal};

use crate::World;

/// Two steps that print long lines side by side, and one that waits for both. Without checks,
/// whose warnings would scroll the screen.
const PARALLEL: &str = r#"# check=skip=all
ARG REGISTRY
FROM ${REGISTRY}/busybox AS base
FROM base AS one
RUN for i in $(seq 1 100); do echo "one says $i, and goes on about it, this and that and more of it, for longer than any of the terminals of this test is wide"; sleep 0.2; done
FROM base AS two
RUN for i in $(seq 1 100); do printf '\033[2J\033[31mtwo: 日本語 %s\033[0m\n' $i; sleep 0.2; done
FROM base
RUN echo before
COPY --from=one /etc/passwd /one
COPY --from=two /etc/passwd /two
"#;

fn command(world: &World, context: &Context, progress: &str) -> Command {
    let mut command = world.cofferdam.command();
    command.env_remove("NO_COLOR").arg("build").arg("--root").arg(world.cofferdam.root());
    command.arg("--progress").arg(progress).arg(context.path());
    command.arg("--build-arg").arg(format!("REGISTRY={}", world.registry.address()));
    let out = world.out.path().join("out");
    command.arg("--output").arg(format!("type=local,dest={}", out.display()));
    command
}

/// Whether it is what a step has printed, and not a step's name.
fn prints(line: &str) -> bool {
    line.starts_with("   one says")
}

/// Whether it is the first line of the view.
fn is_header(line: &str) -> bool {
    line.split_once('/').is_some_and(|(done, _)| done.parse::<u32>().is_ok())
}

/// What is drawn below what lasts.
fn view_of(screen: &[String]) -> &[String] {
    let first = screen.iter().rposition(|line| is_header(line));
    first.map_or(&[], |first| &screen[first..])
}

/// Asserts that each line of a part of the screen is one that the view draws, whole or cut with
/// the mark. The terminal may show what it has read of a drawing before it has read the rest, so
/// that something torn is looked at again.
#[track_caller]
fn assert_whole(terminal: &Terminal, part: fn(&[String]) -> &[String], columns: usize) {
    let torn = |screen: Vec<String>| {
        let lines = part(&screen).iter();
        let torn = lines.clone().find(|line| is_torn(line)).cloned();
        let long = lines.clone().find(|line| line.chars().count() >= columns).cloned();
        torn.or(long).map(|line| format!("torn or too long: {line:?} in:\n{}", screen.join("\n")))
    };
    let looks = (0..3).map(|_| torn(terminal.screen().expect("a terminal has a screen")));
    let torn: Vec<String> = looks.map_while(|torn| torn).collect();
    assert!(torn.len() < 3, "{}", torn.join("\n"));
}

/// Whether the view draws no such line.
fn is_torn(line: &str) -> bool {
    let known = line.is_empty()
        || line.starts_with('#')
        || line.starts_with("   ")
        || line.starts_with("starting")
        || line.starts_with("and ")
        || is_header(line);
    !known || prints(line) && !line.ends_with('…')
}

#[test]
fn steps_side_by_side_at_80_columns_then_40_then_20() -> Result<()> {
    let world = World::new()?;
    let context = Context::new(PARALLEL)?;
    let terminal = Terminal::start(80, 24)?;
    terminal.run(&command(&world, &context, "auto"))?;
    let both = |screen: &[String]| {
        let says = |text: &str| screen.iter().any(|line| line.contains(text));
        screen.iter().any(|line| prints(line)) && says("two: 日本語") && says("waiting for #")
    };
    let screen = terminal.wait("two steps that run", both)?;
    assert_whole(&terminal, |screen| screen, 80);
    // Both run, with times, several lines, and in a view with a header.
    let running = screen.iter().filter(|line| line.contains("RUN for i") && line.ends_with('s'));
    assert_eq!(running.count(), 2, "{}", screen.join("\n"));
    assert!(screen.iter().any(|line| line.contains(" steps") && line.ends_with('s')));
    assert!(!terminal.shows_cursor()?);

    for (columns, rows) in [(100, 30), (40, 12), (20, 6), (60, 9), (80, 24)] {
        terminal.resize(columns, rows)?;
        // The view's header tells for how many columns it was drawn.
        let drawn = |screen: &[String]| {
            let view = view_of(screen);
            view.first().is_some_and(|line| line.chars().count() == usize::from(columns) - 1)
                && view.len() > 2
        };
        let screen = terminal.wait("the view at another size", drawn)?;
        assert_whole(&terminal, view_of, usize::from(columns));
        assert!(view_of(&screen).len() < usize::from(rows), "{}", screen.join("\n"));
        if columns == 100 {
            // A terminal that gets narrower may push old drawings out of reach, but not this one.
            let headers = screen.iter().filter(|line| is_header(line)).count();
            assert_eq!(headers, 1, "drawn twice:\n{}", screen.join("\n"));
            assert!(!terminal.has_wrapped_lines()?, "wrapped:\n{}", screen.join("\n"));
        }
    }

    assert_eq!(terminal.exit_code()?, exit::OK);
    let screen = terminal.screen()?;
    let says = |text: &str| screen.iter().any(|line| line.contains(text));
    assert!(says(" steps run, ") && says("slowest:"), "{}", screen.join("\n"));
    for ended in ["COPY --from=one", "COPY --from=two"] {
        let lines = screen.iter().filter(|line| line.starts_with('#') && line.contains(ended));
        assert_eq!(lines.count(), 1, "{ended}:\n{}", screen.join("\n"));
    }
    assert!(terminal.shows_cursor()?);
    Ok(())
}

#[test]
fn nothing_is_left_over_when_what_ended_scrolls_up() -> Result<()> {
    if needs_steps() {
        return Ok(());
    }
    let world = World::new()?;
    let runs: String = (1..=20).map(|n| format!("RUN seq 1 5 && echo step {n}\n")).collect();
    let context = Context::new(&format!("ARG REGISTRY\nFROM ${{REGISTRY}}/busybox\n{runs}"))?;
    let terminal = Terminal::start(40, 10)?;
    terminal.run(&command(&world, &context, "tty"))?;
    assert_eq!(terminal.exit_code()?, exit::OK);
    let all = terminal.everything()?;
    let all: Vec<_> = all.iter().filter(|line| line.starts_with('#')).collect();
    for n in 1..=20 {
        let step = [format!("[{}/21] RUN", n + 1), format!("[ {}/21] RUN", n + 1)];
        let lines = all.iter().filter(|line| step.iter().any(|step| line.contains(step)));
        assert_eq!(lines.count(), 1, "{step:?} in {all:#?}");
    }
    // Once more, and everything is cached.
    terminal.run(&command(&world, &context, "tty"))?;
    assert_eq!(terminal.exit_code()?, exit::OK);
    let screen = terminal.screen()?;
    assert!(screen.iter().any(|line| line.starts_with("0 steps run, 21 cached")), "{screen:#?}");
    Ok(())
}

#[test]
fn an_interrupt_gives_the_terminal_back() -> Result<()> {
    if needs_steps() {
        return Ok(());
    }
    let world = World::new()?;
    let context = Context::new(PARALLEL)?;
    let terminal = Terminal::start(80, 24)?;
    terminal.type_in("stty -a > /tmp/before-$$")?;
    terminal.run(&command(&world, &context, "auto"))?;
    terminal.wait("a step that prints", |screen| screen.iter().any(|line| prints(line)))?;
    assert!(!terminal.shows_cursor()?);
    terminal.press("C-c")?;
    assert_eq!(terminal.exit_code()?, exit::INTERRUPTED);
    assert!(terminal.shows_cursor()?);
    let screen = terminal.screen()?;
    // What was drawn is gone; what lasts says how each step ended.
    let (lasting, others): (Vec<_>, Vec<_>) = screen.iter().partition(|line| line.starts_with('#'));
    let says = |lines: &[&String], text: &str| lines.iter().any(|line| line.contains(text));
    assert!(says(&lasting, "CANCELED [one 1/1]"), "{}", screen.join("\n"));
    assert!(says(&others, "error: interrupted"), "{}", screen.join("\n"));
    assert!(!says(&others, "one says"), "{}", screen.join("\n"));
    assert!(screen.iter().all(|line| !line.contains("^C")), "{}", screen.join("\n"));
    terminal.type_in(
        "clear; stty -a | diff /tmp/before-$$ - && rm /tmp/before-$$ && echo it is the same",
    )?;
    terminal.wait("the same settings", |s| s.iter().any(|line| line == "it is the same"))?;
    Ok(())
}

#[test]
fn a_failing_step_shows_its_end_and_names_its_log() -> Result<()> {
    if needs_steps() {
        return Ok(());
    }
    let world = World::new()?;
    let context =
        Context::new("ARG REGISTRY\nFROM ${REGISTRY}/busybox\nRUN seq 1 1000 && false\n")?;
    let terminal = Terminal::start(80, 40)?;
    terminal.run(&command(&world, &context, "auto"))?;
    assert_eq!(terminal.exit_code()?, exit::BUILD);
    let text = terminal.everything()?.join("\n");
    assert!(text.contains("ERROR [2/2] RUN seq 1 1000 && false"), "{text}");
    assert!(text.contains(" 981\n") && text.contains(" 1000\n") && !text.contains(" 980\n"));
    let logs = std::fs::read_dir(world.cofferdam.root().join("logs"))?.flatten();
    let builds: Vec<_> = logs.filter(|entry| entry.path().is_dir()).collect();
    assert_eq!(builds.len(), 1);
    let log = builds[0].path().join("01-2-2-RUN-seq-1-1000-false.log");
    let full = std::fs::read_to_string(&log)?;
    let lines: Vec<_> = full.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines, (1..=1000).map(|n| n.to_string()).collect::<Vec<_>>());
    let unwrapped = text.replace('\n', "");
    assert!(unwrapped.contains(&format!("full log: {}", log.display())), "{text}");
    Ok(())
}

#[test]
fn a_terminal_that_cannot_be_drawn_on_gets_lines() -> Result<()> {
    if needs_steps() {
        return Ok(());
    }
    let world = World::new()?;
    let context = Context::new("ARG REGISTRY\nFROM ${REGISTRY}/busybox\nRUN echo hello\n")?;
    let terminal = Terminal::start(80, 40)?;
    terminal.type_in("TERM=dumb")?;
    terminal.run(&command(&world, &context, "tty"))?;
    assert_eq!(terminal.exit_code()?, exit::OK);
    let screen = terminal.screen()?.join("\n");
    assert!(screen.contains("[2/2] RUN echo hello\n") && screen.contains(" hello\n"), "{screen}");
    assert!(screen.contains("DONE") && screen.contains("2 steps run, 0 cached"), "{screen}");
    Ok(())
}

#[test]
fn a_full_disk_for_logs_is_warned_of_and_the_build_goes_on() -> Result<()> {
    if needs_root("a mount") {
        return Ok(());
    }
    let world = World::new()?;
    let logs = world.cofferdam.root().join("logs");
    std::fs::create_dir_all(&logs)?;
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k", "none"])
        .arg(&logs)
        .status()?;
    assert!(mounted.success());
    let context = Context::new(
        "ARG REGISTRY\nFROM ${REGISTRY}/busybox\nRUN seq 1 100000\nRUN seq 1 100001 && echo end\n",
    )?;
    let output = command(&world, &context, "plain").output();
    let unmounted = Command::new("umount").arg("-l").arg(&logs).status()?;
    assert!(unmounted.success());
    let output = output?;
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(exit::OK), "{text}");
    let warning = format!(
        "warning: the logs of the steps are not complete: cannot write below `{}",
        logs.display()
    );
    assert_eq!(text.matches(&warning).count(), 1, "{text}");
    assert!(text.contains("No space left on device") && text.contains(" 100001\n"));
    assert!(!text.contains("logs: "), "{text}");
    Ok(())
}
