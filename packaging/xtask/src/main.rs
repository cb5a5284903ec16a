//! Set-up, builds, tests and benchmarks of this repository: `cargo xtask help`.
//!
//! Standard library only, so that it starts within seconds on a machine that has built nothing yet.

mod bench;
mod binaries;
mod build;
mod dist;
mod lanes;
mod paths;
mod run;
mod setup;
mod standin;
mod test;
mod up;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask COMMAND

  up [ARGS]   set up this machine, build, and bring up the reference fleet on the local cloud;
              --rethinkdb PATH.deb installs that package (default: the official repository, or the
              stand-in of the tests where that cannot be reached); other ARGS go to `fleetctl up`
              (for example: --set diskPerNode=20)
  test        set up this machine, build, and run every check and test, the end-to-end fleet included
  build       build every program in release form, the static agent included
  dist [ARGS] build what nodes run so that everybody who builds this commit gets the same bytes, and sign it as a
              release with the keys of this user's home; --fleetctl PATH signs with that program (default: one built
              from this tree); other ARGS go to `fleetctl release create` (for example: --out DIR)
  bench       measure what the design budgets, print each figure beside its budget; then bring up the reference
              plan with fleetctl and with plumbery, side by side
  setup       only install what building and running need (Debian packages)
  standin     build the tests' stand-in for RethinkDB and print the path of its package
  help        this text

FLEET_VERSION       what the programs call themselves; default: the version in Cargo.toml
FLEET_TARGET_DIR    where builds go; default: ~/.cache/fleet/target, outside the checkout
";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let command = args.next().unwrap_or_else(|| "help".to_owned());
    let rest: Vec<String> = args.collect();
    let done = match (command.as_str(), rest.as_slice()) {
        ("up", rest) => up::up(rest),
        ("test", []) => test::test(),
        ("build", []) => setup::setup().and_then(|()| build::build()).map(|_| ()),
        ("dist", rest) => dist::dist(rest),
        ("bench", []) => bench::bench(),
        ("setup", []) => setup::setup(),
        ("standin", []) => setup::setup().and_then(|()| standin::print()),
        ("help" | "--help" | "-h", _) => {
            eprint!("{HELP}");
            Ok(())
        }
        _ => Err(format!("`{command} {}` is not a command of xtask\n\n{HELP}", rest.join(" "))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask: {why}");
            ExitCode::FAILURE
        }
    }
}
