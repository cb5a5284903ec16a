//! Errors in one line.

use std::error::Error;

/// An error and its causes, parted by colons. A cause whose text was said already is not said twice.
pub fn chain(error: &(dyn Error + '_)) -> String {
    chain_from(error.to_string(), error)
}

/// The same of an error that is called otherwise than it calls itself.
pub fn chain_from(mut text: String, error: &(dyn Error + '_)) -> String {
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Told(&'static str, Option<Box<Told>>);

    impl std::fmt::Display for Told {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Told {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as &dyn Error)
        }
    }

    #[test]
    fn causes_follow_once_each() {
        let check = |texts: &[&'static str], wanted: &str| {
            let error = texts.iter().rev().fold(None, |cause, text| Some(Box::new(Told(text, cause))));
            assert_eq!(chain(&*error.expect("an error")), wanted);
        };
        check(&["open"], "open");
        check(&["open", "no such file"], "open: no such file");
        check(&["open: no such file", "no such file"], "open: no such file");
        check(&["open: no such file, tried twice", "no such file"], "open: no such file, tried twice");
        check(&["start", "open", "no such file"], "start: open: no such file");
    }
}
