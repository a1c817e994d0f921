//! The pen: many processes write one file.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

use super::event::Event;

/// An append-only file that many processes write events to, one `write(2)` each.
///
/// The kernel appends one write after another, so the order of the lines is an order in which the
/// events can have happened: what was recorded before a lock was given back stands before what the
/// next holder records. Put the file where no fault reaches it, and outside the backend under test.
#[derive(Debug)]
pub struct Witness {
    file: File,
}

impl Witness {
    /// Opens the file at `path`, and creates it where absent.
    ///
    /// # Errors
    ///
    /// Those of opening a file for appending.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self { file: OpenOptions::new().create(true).append(true).open(path)? })
    }

    /// Writes the event as one line. After `Ok` it is in the file, even if this process is killed;
    /// a crash of the machine may lose it.
    ///
    /// # Errors
    ///
    /// Those of writing; [`io::ErrorKind::WriteZero`] if only a part was written, and the file ends
    /// in a torn line.
    pub fn record(&self, event: &Event) -> io::Result<()> {
        let line = format!("{event}\n");
        // Not `write_all`: a second write could land behind another process's line.
        let written = loop {
            match (&self.file).write(line.as_bytes()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if written == line.len() {
            Ok(())
        } else {
            let torn = format!(
                "wrote {written} of {} bytes of `{event}`: the history is torn",
                line.len()
            );
            Err(io::Error::new(io::ErrorKind::WriteZero, torn))
        }
    }
}
