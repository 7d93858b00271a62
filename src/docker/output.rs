//! What a build, a pull or a one-shot says, line by line, where somebody takes it so; else it goes where our own words go.

use std::io::{BufRead, BufReader, PipeReader, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use super::{Docker, OUTPUT};

/// Who takes it.
#[derive(Clone)]
pub struct OutputSink {
    /// Whether it is taken now: a board may have come up since.
    pub wanted: Arc<dyn Fn() -> bool + Send + Sync>,
    pub line: LineSink,
}

type LineSink = Arc<dyn Fn(&str) + Send + Sync>;

impl Docker {
    /// The same client, of which somebody hears what commands of the user say.
    pub fn with_output_sink(self, said: OutputSink) -> Docker {
        Docker { said: Some(said), ..self }
    }
}

/// Reads on a thread of its own; what this returns ends with the last line. A line without end comes in pieces.
pub fn forward_lines(reader: PipeReader, line: LineSink) -> Receiver<()> {
    let (end, ended) = channel::<()>();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        loop {
            let mut bytes = Vec::new();
            match reader.by_ref().take(OUTPUT).read_until(b'\n', &mut bytes) {
                Ok(1..) => line(String::from_utf8_lossy(&bytes).trim_end()),
                _ => break drop(end),
            }
        }
    });
    ended
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::Mutex;

    use super::*;

    fn lines(bytes: &[u8]) -> Vec<String> {
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let (reader, mut writer) = io::pipe().unwrap();
        let to = Arc::clone(&heard);
        let told = forward_lines(reader, Arc::new(move |line| to.lock().unwrap().push(line.into())));
        writer.write_all(bytes).unwrap();
        drop(writer);
        assert!(told.recv().is_err(), "it ends with the pipe");
        heard.lock().unwrap().clone()
    }

    #[test]
    fn what_is_said_comes_line_by_line_and_a_line_without_end_in_pieces() {
        assert_eq!(lines(b"one\r\ntwo\n\nlast"), ["one", "two", "", "last"]);
        let long = vec![b'x'; OUTPUT as usize + 1];
        assert_eq!(lines(&long).iter().map(String::len).collect::<Vec<_>>(), [OUTPUT as usize, 1]);
    }
}
