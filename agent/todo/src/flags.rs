//! The command line: few flags, read by hand.

use std::{net::SocketAddr, path::PathBuf};

/// What `--help` says.
pub const HELP: &str = "\
usage: fleet-todo [flags]

  --listen ADDRESS:PORT   where browsers come in ([::]:5000, IPv4 too)
  --driver ADDRESS:PORT   RethinkDB's driver port (127.0.0.1:28015); numeric, names are not looked up
  --database NAME         its database (todo)
  --table NAME            its table (tasks)
  --node NAME             name of this node (the host's)
  --cert FILE             certificate chain, PEM ($CREDENTIALS_DIRECTORY/cert.pem)
  --key FILE              its key, PEM ($CREDENTIALS_DIRECTORY/key.pem)
  --version               print the version
  --help                  print this

FLEET_LOG sets what is logged: a level, or `target=level,…`.";

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Serve.
    Run(Box<Flags>),
    /// Print the version.
    Version,
    /// Print the usage.
    Help,
}

/// The command line, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flags {
    /// Where browsers come in.
    pub listen: SocketAddr,
    /// RethinkDB's driver port.
    pub driver: SocketAddr,
    /// Its database.
    pub database: String,
    /// Its table.
    pub table: String,
    /// Name of this node.
    pub node: String,
    /// Certificate chain.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// What is known without flags.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// `$CREDENTIALS_DIRECTORY`, from systemd's `LoadCredential=`.
    pub credentials: Option<PathBuf>,
    /// The host's name.
    pub hostname: Option<String>,
}

/// A mistake on the command line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// Not a flag of ours.
    #[error("unknown flag `{0}`")]
    Unknown(String),
    /// A flag whose value is not there.
    #[error("{0} needs a value")]
    Missing(&'static str),
    /// A value that does not fit.
    #[error("{0} takes {1}")]
    Value(&'static str, &'static str),
    /// Neither flag nor `$CREDENTIALS_DIRECTORY`.
    #[error("without $CREDENTIALS_DIRECTORY, --cert and --key are needed")]
    NoCertificate,
}

impl Action {
    /// Reads the arguments after the program's name.
    pub fn parse(args: impl IntoIterator<Item = String>, around: &Surroundings) -> Result<Self, FlagError> {
        let credential = |name| around.credentials.as_ref().map(|folder| folder.join(name));
        let (mut cert, mut key) = (credential("cert.pem"), credential("key.pem"));
        let mut listen = "[::]:5000".to_owned();
        let mut driver = "127.0.0.1:28015".to_owned();
        let (mut database, mut table) = ("todo".to_owned(), "tasks".to_owned());
        let mut node = around.hostname.clone().unwrap_or_else(|| "unnamed".into());
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let (name, inline) = match arg.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (arg.as_str(), None),
            };
            let mut value = |flag| inline.clone().or_else(|| args.next()).ok_or(FlagError::Missing(flag));
            match name {
                "--listen" => listen = value("--listen")?,
                "--driver" => driver = value("--driver")?,
                "--database" => database = value("--database")?,
                "--table" => table = value("--table")?,
                "--node" => node = value("--node")?,
                "--cert" => cert = Some(value("--cert")?.into()),
                "--key" => key = Some(value("--key")?.into()),
                "--version" | "-V" if inline.is_none() => return Ok(Self::Version),
                "--help" | "-h" if inline.is_none() => return Ok(Self::Help),
                _ => return Err(FlagError::Unknown(arg)),
            }
        }
        let address = |flag, text: &str| {
            text.parse()
                .map_err(|_| FlagError::Value(flag, "a numeric address and a port, such as [::]:5000"))
        };
        let named = |flag, name: String, more: &str| {
            let good = |c: char| c.is_ascii_alphanumeric() || more.contains(c);
            let fits = (1..=63).contains(&name.len()) && name.chars().all(good);
            fits.then_some(name).ok_or(FlagError::Value(flag, "a name of letters and digits"))
        };
        Ok(Self::Run(Box::new(Flags {
            listen: address("--listen", &listen)?,
            driver: address("--driver", &driver)?,
            database: named("--database", database, "_")?,
            table: named("--table", table, "_")?,
            node: named("--node", node, "_-.")?,
            cert: cert.ok_or(FlagError::NoCertificate)?,
            key: key.ok_or(FlagError::NoCertificate)?,
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around() -> Surroundings {
        Surroundings { credentials: Some("/run/c".into()), hostname: Some("n-1.example".into()) }
    }

    fn parse(line: &str) -> Result<Action, FlagError> {
        Action::parse(line.split_whitespace().map(str::to_owned), &around())
    }

    #[test]
    fn flags_and_mistakes() {
        let usual = Flags {
            listen: "[::]:5000".parse().expect("an address"),
            driver: "127.0.0.1:28015".parse().expect("an address"),
            database: "todo".into(),
            table: "tasks".into(),
            node: "n-1.example".into(),
            cert: "/run/c/cert.pem".into(),
            key: "/run/c/key.pem".into(),
        };
        let run = |flags: Flags| Ok(Action::Run(Box::new(flags)));
        let check =
            |line: &str, expected: Result<Action, FlagError>| assert_eq!(parse(line), expected, "{line}");
        check("", run(usual.clone()));
        let other = "127.0.0.1:7".parse().expect("an address");
        check(
            "--listen 127.0.0.1:7 --driver=127.0.0.1:7",
            run(Flags { listen: other, driver: other, ..usual.clone() }),
        );
        check(
            "--database d --table t_1 --node EU7 --cert /c --key /k",
            run(Flags {
                database: "d".into(),
                table: "t_1".into(),
                node: "EU7".into(),
                cert: "/c".into(),
                key: "/k".into(),
                ..usual
            }),
        );
        check("--version", Ok(Action::Version));
        check("-h", Ok(Action::Help));
        check("--listen", Err(FlagError::Missing("--listen")));
        check("--what", Err(FlagError::Unknown("--what".into())));
        check("stray", Err(FlagError::Unknown("stray".into())));
        let address = "a numeric address and a port, such as [::]:5000";
        check("--driver localhost:28015", Err(FlagError::Value("--driver", address)));
        check("--listen 5000", Err(FlagError::Value("--listen", address)));
        for (flag, value) in [("--table", "a-b"), ("--database", "a.b"), ("--node", "a<b")] {
            check(&format!("{flag} {value}"), Err(FlagError::Value(flag, "a name of letters and digits")));
        }
        let bare = Action::parse([], &Surroundings::default());
        assert_eq!(bare, Err(FlagError::NoCertificate));
    }
}
