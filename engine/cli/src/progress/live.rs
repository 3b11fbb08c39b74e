//! The view of a build in a terminal: what ended scrolls up, and below it is drawn again and
//! again what runs, with its last lines and how far its transfers are, and what waits for what.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, SystemTime};

use cofferdam_build::{Event, EventKind};
use cofferdam_types::Digest;

use super::steps::{End, Step, Steps};
use super::tails::Tails;
use super::terminal::{Look, Row, Size};
use super::text::{duration, fit, one_line, size};

/// How long the end of a step is held back: one that begins again at once did not end.
const HOLD: Duration = Duration::from_millis(700);
/// The most lines below a running step.
const DETAILS: usize = 6;
/// Rows that are drawn also on small screens, if they have one more.
const FEW: usize = 8;
/// The most lines for what waits.
const WAITING: usize = 3;

/// What has to be shown.
#[derive(Debug)]
pub struct Live {
    began: SystemTime,
    /// Ends that will be told of, in their order.
    ends: VecDeque<Told>,
    /// How each step was last said to have ended.
    told: HashMap<Digest, End>,
}

#[derive(Debug)]
struct Told {
    vertex: Digest,
    at: SystemTime,
    settled: bool,
}

impl Live {
    /// Nothing happened yet.
    pub fn new(began: SystemTime) -> Self {
        Self { began, ends: VecDeque::new(), told: HashMap::new() }
    }

    /// Takes note of an event that `steps` know already.
    pub fn add(&mut self, event: &Event, steps: &Steps) {
        let Some(step) = steps.get(&event.vertex) else { return };
        match &event.kind {
            EventKind::Started => {
                self.ends.retain(|end| end.vertex != event.vertex);
                self.settle(step);
            }
            EventKind::Completed(_) => {
                self.settle(step);
                let settled = matches!(step.ended(), Some(End::Failed(_)));
                self.ends.push_back(Told { vertex: event.vertex, at: event.at, settled });
            }
            _ => {}
        }
    }

    /// What a step needs that begins has come to its end. So has, most likely, what ended before
    /// that, and it should be told of in order.
    fn settle(&mut self, step: &Step) {
        let last = self.ends.iter().rposition(|end| step.inputs.contains(&end.vertex));
        for end in self.ends.iter_mut().take(last.map_or(0, |last| last + 1)) {
            end.settled = true;
        }
    }

    /// The lines for the steps that ended since they were last asked for.
    pub fn lasting(&mut self, steps: &mut Steps, now: SystemTime, columns: usize) -> Vec<Row> {
        self.take(steps, columns, |end| {
            end.settled || now.duration_since(end.at).is_ok_and(|elapsed| elapsed >= HOLD)
        })
    }

    /// The lines for all steps that ended.
    pub fn rest(&mut self, steps: &mut Steps, columns: usize) -> Vec<Row> {
        self.take(steps, columns, |_| true)
    }

    fn take(
        &mut self,
        steps: &mut Steps,
        columns: usize,
        is_ready: impl Fn(&Told) -> bool,
    ) -> Vec<Row> {
        let (ready, held) = self.ends.drain(..).partition(is_ready);
        self.ends = held;
        let mut rows = Vec::new();
        let ready: VecDeque<Told> = ready;
        for end in ready {
            let Some(step) = steps.get_mut(&end.vertex) else { continue };
            let has_news = std::mem::take(&mut step.has_news);
            let Some(end) = step.ended() else { continue };
            if end.is_news_after(self.told.get(&step.vertex), has_news) {
                rows.extend(ended(step, end, columns));
                self.told.insert(step.vertex, end.clone());
            }
        }
        rows
    }

    /// What is drawn below: at most half of the screen, or a few rows if that is less. When a
    /// terminal gets narrower and breaks every line in two, all of it is still on the screen and
    /// can be erased; what scrolled out of it cannot.
    pub fn rows(&self, steps: &Steps, tails: &Tails, now: SystemTime, size: Size) -> Vec<Row> {
        let most = (size.rows / 2).max(size.rows.saturating_sub(1).min(FEW)).max(1);
        let mut rows = vec![self.header(steps, now, size.columns)];
        let held = self.ends.iter().filter_map(|end| {
            let step = steps.get(&end.vertex)?;
            let end = step.ended()?;
            end.is_news_after(self.told.get(&step.vertex), step.has_news).then_some((step, end))
        });
        let held: Vec<(&Step, &End)> = held.collect();
        let mut running: Vec<&Step> =
            steps.iter().filter(|step| step.running().is_some()).collect();
        running.sort_by_key(|step| step.number);
        let waiting = waiting(steps, size.columns);

        let room = most - rows.len();
        if running.len() > room {
            let shown = room.saturating_sub(1);
            rows.extend(running[..shown].iter().map(|step| head(step, now, size.columns)));
            if room > 0 {
                let more = format!("and {} more running", running.len() - shown);
                rows.push(row(&more, &[], size.columns, Look::Busy));
            }
            return rows;
        }
        let mut room = room - running.len();
        let details: Vec<Vec<Row>> = running
            .iter()
            .map(|step| details(step, tails, now, size.columns, room.min(DETAILS)))
            .collect();
        // First two lines for each step, then what waits, then more lines.
        let mut granted = vec![0; running.len()];
        share(&details, &mut granted, 2, &mut room);
        let held_shown = held.len().min(room);
        room -= held_shown;
        let waiting_shown = waiting.len().min(WAITING).min(room);
        room -= waiting_shown;
        share(&details, &mut granted, DETAILS, &mut room);

        for (step, end) in &held[..held_shown] {
            rows.extend(ended(step, end, size.columns).into_iter().take(1));
        }
        for ((step, details), granted) in running.iter().zip(details).zip(granted) {
            rows.push(head(step, now, size.columns));
            // Of what was printed, the last lines.
            let cut = details.len() - granted;
            rows.extend(details.into_iter().skip(cut));
        }
        rows.extend(waiting.into_iter().take(waiting_shown));
        rows
    }

    fn header(&self, steps: &Steps, now: SystemTime, columns: usize) -> Row {
        let (mut all, mut done, mut cached, mut waiting) = (0, 0, 0, 0);
        for step in steps.iter() {
            all += 1;
            match step.ended() {
                Some(end) => {
                    done += 1;
                    cached += usize::from(*end == End::Cached);
                }
                None => waiting += usize::from(step.running().is_none()),
            }
        }
        let mut text = match all {
            0 => "starting".to_owned(),
            _ => format!("{done}/{all} steps"),
        };
        if cached > 0 {
            text += &format!(", {cached} cached");
        }
        if waiting > 0 {
            text += &format!(", {waiting} waiting");
        }
        let elapsed = now.duration_since(self.began).unwrap_or_default();
        row(&text, &[duration(elapsed)], columns, Look::Strong)
    }
}

/// Grants each step lines in turn, up to `most`.
fn share(details: &[Vec<Row>], granted: &mut [usize], most: usize, room: &mut usize) {
    for _ in 0..most {
        for (granted, details) in granted.iter_mut().zip(details) {
            if *room > 0 && *granted < details.len().min(most) {
                *granted += 1;
                *room -= 1;
            }
        }
    }
}

/// A line with something at the left, and the first text of `rights` at the right edge that
/// leaves enough of it. The last column stays free: terminals differ in what comes after it.
fn row(left: &str, rights: &[String], columns: usize, look: Look) -> Row {
    const LEFT: usize = 12;
    let columns = columns.saturating_sub(1);
    let right = rights.iter().find(|right| fit(right, columns).1 + 2 + LEFT <= columns);
    let text = match right {
        Some(right) => {
            let (right, width) = fit(right, columns);
            let (left, used) = fit(left, columns - width - 2);
            format!("{left}{}{right}", " ".repeat(columns - used - width))
        }
        None => fit(left, columns).0,
    };
    Row { text, look }
}

/// The line for a step that runs.
fn head(step: &Step, now: SystemTime, columns: usize) -> Row {
    let since = step.running().unwrap_or(now);
    let elapsed = duration(now.duration_since(since).unwrap_or_default());
    row(&format!("#{} {}", step.number, step.name), &[elapsed], columns, Look::Busy)
}

/// The lines for a step that ended.
fn ended(step: &Step, end: &End, columns: usize) -> Vec<Row> {
    let why = step.why.iter().filter(|_| matches!(end, End::Done | End::Failed(_)));
    let why = why.map(|why| row(&format!("   why: {why}"), &[], columns, Look::Odd));
    how_it_ended(step, end, columns).into_iter().chain(why).collect()
}

fn how_it_ended(step: &Step, end: &End, columns: usize) -> Vec<Row> {
    let number = step.number;
    let took = duration(step.took);
    let line = |word: &str, rights: &[String], look| {
        row(&format!("#{number} {word}{}", step.name), rights, columns, look)
    };
    match end {
        End::Done => vec![line("", &[took], Look::Good)],
        End::Cached => vec![line("CACHED ", &[], Look::Faint)],
        End::Canceled => vec![line("CANCELED ", &[took], Look::Odd)],
        End::Failed(message) => {
            let message = format!("   {}", one_line(message));
            vec![line("ERROR ", &[took], Look::Bad), row(&message, &[], columns, Look::Bad)]
        }
    }
}

/// What there is to say below a step that runs: what it transfers, else what it prints.
fn details(step: &Step, tails: &Tails, now: SystemTime, columns: usize, most: usize) -> Vec<Row> {
    let printed = tails.last(&step.vertex, most);
    if !printed.is_empty() {
        let line = |line: &String| row(&format!("   {line}"), &[], columns, Look::Faint);
        return printed.iter().map(line).collect();
    }
    let transfers = &step.transfers;
    let together = transfers.together();
    let mut rows: Vec<Row> = Vec::new();
    let active = transfers.active().take(most.saturating_sub(1).max(1));
    for part in active {
        let rights = amounts(part.current, part.total, part.rate(now));
        rows.push(row(&format!("   {}", short(&part.name)), &rights, columns, Look::Faint));
    }
    if together.parts > 1 && !rows.is_empty() {
        let rights = amounts(together.current, together.total, transfers.rate(now));
        let text = format!("   {} of {} done", together.complete, together.parts);
        rows.push(row(&text, &rights, columns, Look::Faint));
    }
    rows
}

/// How far something is, from long to short.
fn amounts(current: u64, total: u64, rate: Option<u64>) -> Vec<String> {
    let mut all = Vec::new();
    let done = match total {
        0 => size(current),
        _ => format!("{} / {}", size(current), size(total)),
    };
    if let Some(rate) = rate {
        all.push(format!("{done}  {}/s", size(rate)));
    }
    all.push(done);
    let percent = u128::from(current) * 100 / u128::from(total.max(1));
    if total > 0 {
        all.push(format!("{percent}%"));
    } else {
        all.push(size(current));
    }
    all
}

/// Digests in a name as short as people compare them.
fn short(name: &str) -> String {
    const DIGITS: usize = 12;
    fn word(word: &str) -> &str {
        match word.strip_prefix("sha256:") {
            Some(hex) if hex.len() == 64 && hex.is_ascii() => &hex[..DIGITS],
            _ => word,
        }
    }
    one_line(&name.split(' ').map(word).collect::<Vec<_>>().join(" "))
}

/// Lines for the steps that wait for nothing but steps that run.
fn waiting(steps: &Steps, columns: usize) -> Vec<Row> {
    let mut rows = Vec::new();
    for step in steps.iter().filter(|step| step.ended().is_none() && step.running().is_none()) {
        let missing = || {
            let inputs = step.inputs.iter().filter_map(|input| steps.get(input));
            inputs.filter(|input| input.ended().is_none())
        };
        if missing().next().is_none() || missing().any(|input| input.running().is_none()) {
            continue;
        }
        let mut numbers: Vec<_> = missing().map(|input| input.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let list = numbers.iter().map(|number| format!("#{number}")).collect::<Vec<_>>();
        let rights = [format!("waiting for {}", list.join(", ")), format!("after {}", list[0])];
        rows.push(row(&format!("   {}", step.name), &rights, columns, Look::Faint));
    }
    rows
}

#[cfg(test)]
mod tests {
    use cofferdam_build::EventKind::{Completed, Started};
    use cofferdam_build::{Miss, Outcome, Stream};
    use expect_test::{Expect, expect};

    use super::super::testing::{announced, at, failed, log, status};
    use super::*;

    struct View {
        live: Live,
        steps: Steps,
        tails: Tails,
    }

    impl View {
        /// After these events: milliseconds, the vertex's name, what happened.
        fn of(events: &[(u64, &str, EventKind)]) -> Self {
            let mut view =
                Self { live: Live::new(at(0)), steps: Steps::default(), tails: Tails::default() };
            for (millis, vertex, kind) in events {
                let event =
                    Event { vertex: Digest::of(vertex), at: at(*millis), kind: kind.clone() };
                view.tails.add(&event);
                view.steps.add(&event);
                view.live.add(&event, &view.steps);
            }
            view
        }

        /// What lasts and what is drawn below.
        fn shown(&mut self, millis: u64, columns: usize, rows: usize) -> (Vec<Row>, Vec<Row>) {
            let (now, size) = (at(millis), Size { columns, rows });
            let lasting = self.live.lasting(&mut self.steps, now, columns);
            (lasting, self.live.rows(&self.steps, &self.tails, now, size))
        }

        fn text(&mut self, millis: u64, columns: usize, rows: usize) -> String {
            let (lasting, live) = self.shown(millis, columns, rows);
            let lines = |rows: &[Row]| {
                rows.iter().map(|row| format!("{}|\n", row.text)).collect::<String>()
            };
            format!("{}----\n{}", lines(&lasting), lines(&live))
        }
    }

    fn after(name: &str, inputs: &[&str]) -> EventKind {
        EventKind::Announced {
            name: name.to_owned(),
            inputs: inputs.iter().map(Digest::of).collect(),
        }
    }

    /// Something of everything.
    fn busy() -> Vec<(u64, &'static str, EventKind)> {
        let digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        vec![
            (0, "from", announced("[base 1/2] FROM example.org/debian:bookworm")),
            (0, "pull", announced("[other 1/1] FROM example.org/tools:latest")),
            (0, "make", after("[base 2/2] RUN ./configure && make -j8 all install", &["from"])),
            (
                0,
                "copy",
                after("[final 2/3] COPY --from=base /usr/local /usr/local", &["make", "pull"]),
            ),
            (0, "end", after("[final 3/3] RUN ldconfig", &["copy"])),
            (0, "from", Started),
            (0, "from", Completed(Outcome::Cached { took: None })),
            (100, "make", Started),
            (100, "pull", Started),
            (100, "pull", status(digest, 0, 40_000_000)),
            (100, "pull", status("config", 900, 900)),
            (1100, "pull", status(digest, 5_000_000, 40_000_000)),
            (
                1000,
                "make",
                log(Stream::Stdout, "checking for gcc... yes\nconfigure: \x1b[1mdone\x1b[0m\n"),
            ),
            (
                1200,
                "make",
                log(
                    Stream::Stderr,
                    "[ 10%] Building CXX object src/CMakeFiles/日本語.dir/main.cpp.o\n",
                ),
            ),
            (1300, "make", log(Stream::Stdout, "12%\r13%")),
        ]
    }

    fn check(events: &[(u64, &str, EventKind)], size: (u64, usize, usize), expected: Expect) {
        let (millis, columns, rows) = size;
        expected.assert_eq(&View::of(events).text(millis, columns, rows));
    }

    #[test]
    fn a_screen_of_80_columns() {
        check(
            &busy(),
            (1500, 80, 24),
            expect![[r#"
                #1 CACHED [base 1/2] FROM example.org/debian:bookworm|
                ----
                1/5 steps, 1 cached, 2 waiting                                             1.5s|
                #2 [base 2/2] RUN ./configure && make -j8 all install                      1.4s|
                   checking for gcc... yes|
                   configure: done|
                   [ 10%] Building CXX object src/CMakeFiles/日本語.dir/main.cpp.o|
                   13%|
                #3 [other 1/1] FROM example.org/tools:latest                               1.4s|
                   0123456789ab                                      5.00MB / 40.00MB  3.57MB/s|
                   1 of 2 done                                       5.00MB / 40.00MB  3.57MB/s|
                   [final 2/3] COPY --from=base /usr/local /usr/local        waiting for #2, #3|
            "#]],
        );
    }

    #[test]
    fn a_screen_of_40_columns() {
        check(
            &busy(),
            (1500, 40, 10),
            expect![[r#"
                #1 CACHED [base 1/2] FROM example.org/…|
                ----
                1/5 steps, 1 cached, 2 waiting     1.5s|
                #2 [base 2/2] RUN ./configure &&…  1.4s|
                   [ 10%] Building CXX object src/CMak…|
                   13%|
                #3 [other 1/1] FROM example.org/…  1.4s|
                   0123456789ab        5.00MB / 40.00MB|
                   1 of 2 done         5.00MB / 40.00MB|
                   [final 2/3] COP…  waiting for #2, #3|
            "#]],
        );
    }

    #[test]
    fn a_screen_of_20_columns() {
        check(
            &busy(),
            (1500, 20, 8),
            expect![[r#"
                #1 CACHED [base 1/…|
                ----
                1/5 steps, 1…  1.5s|
                #2 [base 2/2…  1.4s|
                   [ 10%] Building…|
                   13%|
                #3 [other 1/…  1.4s|
                   0123456789…  12%|
                   1 of 2 done  12%|
            "#]],
        );
    }

    #[test]
    fn no_line_is_too_long_and_no_screen_too_small() {
        for columns in 0..100 {
            for rows in 0..12 {
                let (lasting, live) = View::of(&busy()).shown(1500, columns, rows);
                assert!(live.len() <= rows.saturating_sub(1).max(1), "{columns}x{rows}");
                for row in lasting.iter().chain(&live) {
                    let (text, width) = fit(&row.text, 1000);
                    assert_eq!(text, row.text);
                    assert!(width < columns.max(1), "{columns}x{rows}: {row:?}");
                }
            }
        }
    }

    #[test]
    fn more_steps_than_rows() {
        let names: Vec<String> = (1..=9).map(|n| format!("[s{n}] RUN x")).collect();
        let mut events = Vec::new();
        for name in &names {
            events.push((0, name.as_str(), announced(name)));
            events.push((0, name.as_str(), Started));
            events.push((0, name.as_str(), log(Stream::Stdout, "line\n")));
        }
        check(
            &events,
            (2000, 40, 6),
            expect![[r#"
            ----
            0/9 steps                          2.0s|
            #1 [s1] RUN x                      2.0s|
            #2 [s2] RUN x                      2.0s|
            #3 [s3] RUN x                      2.0s|
            and 6 more running|
        "#]],
        );
        check(
            &events,
            (2000, 40, 14),
            expect![[r#"
                ----
                0/9 steps                          2.0s|
                #1 [s1] RUN x                      2.0s|
                #2 [s2] RUN x                      2.0s|
                #3 [s3] RUN x                      2.0s|
                #4 [s4] RUN x                      2.0s|
                #5 [s5] RUN x                      2.0s|
                #6 [s6] RUN x                      2.0s|
                and 3 more running|
            "#]],
        );
    }

    #[test]
    fn ends_last() {
        check(
            &[
                (0, "a", announced("[1/4] FROM x")),
                (0, "b", after("[2/4] RUN b", &["a"])),
                (0, "c", after("[3/4] RUN c", &["b"])),
                (0, "d", after("[4/4] RUN d", &["c"])),
                (0, "b", EventKind::Missed(Miss::NeverSeen)),
                (0, "a", Started),
                (0, "a", Completed(Outcome::Cached { took: None })),
                (0, "b", Started),
                (100, "d", Started),
                (2100, "b", Completed(Outcome::Done)),
                (2100, "c", Started),
                (2200, "c", Completed(failed("exit\ncode: 1"))),
                (2200, "d", Completed(Outcome::Canceled)),
            ],
            (2300, 60, 24),
            expect![[r#"
                #1 CACHED [1/4] FROM x|
                #2 [2/4] RUN b                                         2.1s|
                   why: never built before|
                #4 ERROR [3/4] RUN c                                   0.1s|
                   exit code: 1|
                ----
                4/4 steps, 1 cached                                    2.3s|
                #3 CANCELED [4/4] RUN d                                2.1s|
            "#]],
        );
    }

    #[test]
    fn a_step_that_begins_again_has_not_ended() {
        let mut events = vec![
            (0, "a", announced("[1/2] FROM x")),
            (0, "b", after("[2/2] RUN b", &["a"])),
            (0, "a", Started),
            (10, "a", Completed(Outcome::Done)),
        ];
        check(
            &events,
            (300, 40, 10),
            expect![[r#"
            ----
            1/2 steps, 1 waiting               0.3s|
            #1 [1/2] FROM x                    0.0s|
        "#]],
        );
        events.extend([(400, "a", Started), (400, "a", status("layer", 5_000, 10_000))]);
        check(
            &events,
            (500, 40, 10),
            expect![[r#"
            ----
            0/2 steps, 1 waiting               0.5s|
            #1 [1/2] FROM x                    0.1s|
               layer               5.00kB / 10.00kB|
               [2/2] RUN b           waiting for #1|
        "#]],
        );
        events.extend([(1400, "a", Completed(Outcome::Done)), (1400, "b", Started)]);
        check(
            &events,
            (1450, 40, 10),
            expect![[r#"
            #1 [1/2] FROM x                    1.0s|
            ----
            1/2 steps                          1.4s|
            #2 [2/2] RUN b                     0.0s|
        "#]],
        );
        // Once it was told, the same again is no news.
        let mut view = View::of(&events[..4]);
        assert_eq!(view.shown(2000, 40, 10).0.len(), 1);
        for kind in [Started, Completed(Outcome::Done)] {
            let event = Event { vertex: Digest::of("a"), at: at(2100), kind };
            view.steps.add(&event);
            view.live.add(&event, &view.steps);
        }
        assert_eq!(view.live.rest(&mut view.steps, 40), []);
    }
}
