//! The part of a terminal's screen that is drawn again and again, below what stays.
//!
//! The cursor rests at the beginning of that part, because terminals keep the cursor's place in
//! the text when their size changes: however they break lines anew, what is below the cursor is
//! what has to go. Nothing is read from the terminal: its input may be the build's. The escape
//! sequences are ECMA-48's and DEC's; there are too few of them for a library.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::text::Colours;

/// What is written is shown at once, where the terminal can do that.
const TOGETHER: (&str, &str) = ("\x1b[?2026h", "\x1b[?2026l");
/// A line that turns out longer than we think is cut at the edge. Terminals and we may not agree
/// on how wide a character is.
const NO_WRAP: (&str, &str) = ("\x1b[?7l", "\x1b[?7h");
const HIDE_CURSOR: &str = "\x1b[?25l";
const SHOW_CURSOR: &str = "\x1b[?25h";
const ERASE_LINE: &str = "\x1b[K";
/// Erases from the beginning of the line to the end of the screen. In two steps, because tmux
/// takes erasing everything from the upper left corner for something to keep in its history; and
/// back to where the cursor was, because at the lower edge there is no row below.
const ERASE_BELOW: &str = "\r\x1b[K\x1b7\x1b[B\x1b[J\x1b8";

/// Whether something is drawn on standard error that has to go before anything else is written.
static LIVE: AtomicBool = AtomicBool::new(false);
/// Whether nothing may be drawn any more.
static CLOSED: AtomicBool = AtomicBool::new(false);

/// How many columns and rows there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Columns.
    pub columns: usize,
    /// Rows.
    pub rows: usize,
}

impl Size {
    /// That of the terminal on standard error.
    pub fn current() -> Self {
        let size = terminal_size::terminal_size_of(io::stderr());
        let known = size.map(|(width, height)| (width.0.into(), height.0.into()));
        // Some terminals (serial lines) have no idea, and say 0.
        let (columns, rows) = known.filter(|(w, h)| *w > 0 && *h > 0).unwrap_or((80, 24));
        Self { columns, rows }
    }
}

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// What it is all about.
    Strong,
    /// Less important.
    Faint,
    /// Work in progress.
    Busy,
    /// Something went well.
    Good,
    /// Something is unusual.
    Odd,
    /// Something went wrong.
    Bad,
}

impl Look {
    fn code(self) -> u8 {
        match self {
            Self::Strong => 1,
            Self::Faint => 2,
            Self::Busy => 36,
            Self::Good => 32,
            Self::Odd => 33,
            Self::Bad => 31,
        }
    }
}

/// A line that fits the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The text, without anything that could drive the terminal.
    pub text: String,
    /// How it looks.
    pub look: Look,
}

/// What is on the screen.
#[derive(Debug)]
pub struct Screen {
    colours: Colours,
    size: Option<Size>,
}

impl Screen {
    /// Nothing was drawn yet.
    pub fn new(colours: Colours) -> Self {
        Self { colours, size: None }
    }

    /// What to write so that `lasting` stays above, and `live` is all that is below.
    pub fn draw(&mut self, lasting: &[Row], live: &[Row], size: Size) -> String {
        let mut out = String::new();
        out.push_str(TOGETHER.0);
        out.push_str(HIDE_CURSOR);
        out.push_str(NO_WRAP.0);
        out.push('\r');
        if self.size.replace(size).is_some_and(|before| before != size) {
            out.push_str(ERASE_BELOW);
        }
        for row in lasting {
            self.row(&mut out, row);
            out.push_str("\r\n");
        }
        for (number, row) in live.iter().enumerate() {
            if number > 0 {
                out.push_str("\r\n");
            }
            self.row(&mut out, row);
        }
        match live.len() {
            0 => out.push_str(ERASE_BELOW),
            1 => out.push_str("\x1b[J\r"),
            rows => {
                let _ = write!(out, "\x1b[J\x1b[{}A\r", rows - 1);
            }
        }
        out.push_str(NO_WRAP.1);
        if live.is_empty() {
            out.push_str(SHOW_CURSOR);
        }
        out.push_str(TOGETHER.1);
        out
    }

    fn row(&self, out: &mut String, row: &Row) {
        match self.colours {
            Colours::Keep => {
                let _ = write!(out, "\x1b[{}m{}\x1b[0m", row.look.code(), row.text);
            }
            Colours::Remove => out.push_str(&row.text),
        }
        out.push_str(ERASE_LINE);
    }
}

/// Writes what [`Screen::draw`] made, unless nothing may be drawn any more.
pub fn show(out: &mut impl Write, drawing: &str, live: bool) {
    if CLOSED.load(Ordering::SeqCst) {
        return;
    }
    LIVE.store(live, Ordering::SeqCst);
    // Nobody looks at it any more: the build goes on.
    let _ = out.write_all(drawing.as_bytes()).and_then(|()| out.flush());
}

/// Makes room for a message on standard error. What is drawn next comes below it.
fn make_room() {
    if LIVE.load(Ordering::SeqCst) {
        let _ = io::stderr().write_all(ERASE_BELOW.as_bytes());
    }
}

/// Standard error, for messages that may come while something is drawn there.
#[derive(Debug)]
pub struct Messages;

impl Write for Messages {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        make_room();
        io::stderr().write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// From now on a panic's message is not written into what is drawn.
pub fn guard_panics() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        make_room();
        report(panic);
    }));
}

/// Gives the terminal back before the program ends in the middle of something. Waits for a
/// terminal that was stopped (Ctrl-S) only for a moment.
pub fn give_back() {
    CLOSED.store(true, Ordering::SeqCst);
    if !LIVE.swap(false, Ordering::SeqCst) {
        return;
    }
    let (done, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let text = format!("{ERASE_BELOW}{}{SHOW_CURSOR}", NO_WRAP.1);
        let _ = io::stderr().write_all(text.as_bytes());
        let _ = done.send(());
    });
    let _ = wait.recv_timeout(Duration::from_millis(200));
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn rows(texts: &[&str]) -> Vec<Row> {
        texts.iter().map(|text| Row { text: (*text).to_owned(), look: Look::Busy }).collect()
    }

    fn number(number: u16) -> std::num::NonZero<u16> {
        number.try_into().expect("not zero")
    }

    fn terminal_of(rows: u16, columns: u16) -> vt100::Parser {
        vt100::Parser::new(number(rows), number(columns), 100)
    }

    /// What a terminal of 20 by 5 shows in the end, with the lines that left it above, after
    /// drawings of lines that stay and lines that do not.
    fn check(drawings: &[(&[&str], &[&str])], expected: Expect) {
        let size = Size { columns: 20, rows: 5 };
        let mut terminal = terminal_of(5, 20);
        let mut screen = Screen::new(Colours::Keep);
        terminal.process(b"$ cofferdam\r\n");
        for (lasting, live) in drawings {
            terminal.process(screen.draw(&rows(lasting), &rows(live), size).as_bytes());
            assert_eq!(terminal.screen().hide_cursor(), !live.is_empty());
        }
        terminal.screen_mut().set_scrollback(100);
        let above = terminal.screen().scrollback();
        let mut text = String::new();
        for offset in (1..=above).rev() {
            terminal.screen_mut().set_scrollback(offset);
            text += terminal.screen().rows(0, 20).next().unwrap_or_default().trim_end();
            text += "\n";
        }
        terminal.screen_mut().set_scrollback(0);
        let (row, column) = terminal.screen().cursor_position();
        text += &format!("-- cursor at {row}, {column}\n{}\n", terminal.screen().contents());
        expected.assert_eq(&text);
    }

    #[test]
    fn what_lasts_scrolls_up_and_the_rest_is_drawn_over() {
        check(
            &[(&[], &["header", "a", "b"])],
            expect![[r#"
                -- cursor at 1, 0
                $ cofferdam
                header
                a
                b
            "#]],
        );
        check(
            &[(&[], &["header", "a", "b"]), (&["a done"], &["header", "b"])],
            expect![[r#"
                -- cursor at 2, 0
                $ cofferdam
                a done
                header
                b
            "#]],
        );
        check(
            &[
                (&[], &["header", "a", "b", "c"]),
                (&["a done", "b done"], &["header", "c", "d", "e"]),
                (&["c done"], &["header", "d"]),
            ],
            expect![[r#"
                $ cofferdam
                a done
                -- cursor at 2, 0
                b done
                c done
                header
                d
            "#]],
        );
        // At the lower edge.
        check(
            &[(&["1", "2", "3"], &["header"]), (&["4"], &[]), (&["summary"], &[])],
            expect![[r#"
                $ cofferdam
                1
                -- cursor at 4, 0
                2
                3
                4
                summary
            "#]],
        );
        check(
            &[(&[], &["header", "a", "b"]), (&["a done", "b done"], &[])],
            expect![[r#"
                -- cursor at 3, 0
                $ cofferdam
                a done
                b done
            "#]],
        );
    }

    #[test]
    fn lines_that_terminals_find_longer_do_not_break() {
        // As long as the screen is wide, and longer.
        check(
            &[(&["12345678901234567890"], &["header", "1234567890123456789012345"])],
            expect![[r#"
                -- cursor at 3, 0
                $ cofferdam
                12345678901234567890
                header
                1234567890123456789012345
            "#]],
        );
    }

    #[test]
    fn another_size_erases_what_was_drawn() {
        let mut terminal = terminal_of(10, 40);
        let mut screen = Screen::new(Colours::Remove);
        let draw = |screen: &mut Screen, live: &[&str], columns| {
            screen.draw(&[], &rows(live), Size { columns, rows: 10 })
        };
        let wide = "0123456789".repeat(3);
        terminal.process(draw(&mut screen, &["header", &wide, &wide], 40).as_bytes());
        // What it looks like where the terminal broke the lines anew.
        terminal.screen_mut().set_size(number(10), number(20));
        terminal.process(b"\x1b7\r\nxxxx\r\nxxxx\r\nxxxx\r\nxxxx\x1b8");
        terminal.process(draw(&mut screen, &["header", "a"], 20).as_bytes());
        assert_eq!(terminal.screen().contents(), "header\na");
    }
}
