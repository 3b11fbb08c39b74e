//! The user's terminal while a program in a step has one of its own: raw, so that every key goes
//! to the program, and back to what it was at every way out of this program.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cofferdam_build::TerminalSize;
use rustix::stdio::{stdin, stdout};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

/// What the terminal was before it was made raw.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

fn before() -> MutexGuard<'static, Option<Termios>> {
    BEFORE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether there is a terminal to hand on: both standard input and output are one. With only one
/// of them a program's bytes are passed on as they are, which a terminal would not do.
pub fn is_there() -> bool {
    isatty(stdin()) && isatty(stdout())
}

/// The terminal's size; the usual one if it has none.
pub fn size() -> TerminalSize {
    match tcgetwinsize(stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
            TerminalSize { columns: size.ws_col, rows: size.ws_row }
        }
        _ => TerminalSize { columns: 80, rows: 24 },
    }
}

/// While this lives, the terminal is raw.
pub struct Raw(());

impl Raw {
    /// Makes the terminal raw.
    ///
    /// # Errors
    /// When standard input is no terminal.
    pub fn start() -> io::Result<Self> {
        enter()?;
        Ok(Self(()))
    }

    /// Makes the terminal raw again, whatever others did to it while this program was stopped.
    ///
    /// # Errors
    /// When it cannot be changed.
    pub fn resume(&self) -> io::Result<()> {
        enter()
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

fn enter() -> io::Result<()> {
    let mut before = before();
    let mut raw = match &*before {
        Some(known) => known.clone(),
        None => before.insert(tcgetattr(stdin())?).clone(),
    };
    raw.make_raw();
    Ok(tcsetattr(stdin(), OptionalActions::Now, &raw)?)
}

/// Makes the terminal what it was before it was raw, if it was made raw.
pub fn restore() {
    if let Some(before) = before().take() {
        // A terminal that is gone needs nothing any more.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &before);
    }
}
