//! Output of a build, a pull or a job, line by line for a receiver; without a receiver it goes to stderr.

use std::io::{BufRead, BufReader, PipeReader, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use super::{Docker, MAX_OUTPUT};

/// Receiver of the output.
#[derive(Clone)]
pub struct OutputSink {
    /// True if the receiver takes lines now: the progress display may appear later.
    pub is_wanted: Arc<dyn Fn() -> bool + Send + Sync>,
    pub write_line: LineSink,
}

type LineSink = Arc<dyn Fn(&str) + Send + Sync>;

impl Docker {
    /// The same client; this receiver gets the output of the user's commands.
    pub fn with_output_sink(self, sink: OutputSink) -> Docker {
        Docker { output_sink: Some(sink), ..self }
    }
}

/// Forwards lines on a thread of its own. The returned channel closes after the last line. A very long line is split.
pub fn forward_lines(reader: PipeReader, write_line: LineSink) -> Receiver<()> {
    let (end, ended) = channel::<()>();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        loop {
            let mut bytes = Vec::new();
            match reader.by_ref().take(MAX_OUTPUT).read_until(b'\n', &mut bytes) {
                Ok(1..) => write_line(String::from_utf8_lossy(&bytes).trim_end()),
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
        let received: Arc<Mutex<Vec<String>>> = Arc::default();
        let (reader, mut writer) = io::pipe().unwrap();
        let sink = Arc::clone(&received);
        let closed = forward_lines(reader, Arc::new(move |line| sink.lock().unwrap().push(line.into())));
        writer.write_all(bytes).unwrap();
        drop(writer);
        assert!(closed.recv().is_err(), "it ends with the pipe");
        received.lock().unwrap().clone()
    }

    #[test]
    fn output_is_forwarded_line_by_line_and_a_long_line_is_split() {
        assert_eq!(lines(b"one\r\ntwo\n\nlast"), ["one", "two", "", "last"]);
        let long = vec![b'x'; MAX_OUTPUT as usize + 1];
        assert_eq!(lines(&long).iter().map(String::len).collect::<Vec<_>>(), [MAX_OUTPUT as usize, 1]);
    }
}
