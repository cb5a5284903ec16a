//! `fleetctl release create`: packs programs and signs what they are.
//!
//! The same programs, version, keys and `SOURCE_DATE_EPOCH` give the same bytes: nothing of this host, and of the time
//! only what that variable says, is in them.

use std::{
    env, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use flate2::{Compression, write::GzEncoder};
use fleet_model::{Clock as _, SystemClock, Timestamp};
use fleet_release::{Artifact, Manifest, Minimum, Version};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::process::Command;

use super::{
    chain,
    draft::Draft,
    folder,
    keys::{Keys, RoleName},
    note, words,
};
use crate::{
    args::{Global, Output, release::Create},
    commands::serve,
    failure::{Exit, Failure},
    home::Home,
    printer,
};

/// A program says its version at once.
const ANSWER: Duration = Duration::from_secs(10);

pub async fn run(global: &Global, home: &Home, args: Create) -> Result<Exit, Failure> {
    let agent = serve::find_agent(args.agent.as_deref())?;
    let todo = serve::find_todo(args.todo.as_deref())?;
    let version = version(&agent, args.version).await?;
    let created = created(env::var("SOURCE_DATE_EPOCH").ok().as_deref())?;
    let keys = Keys::ensure(home, note)?;
    chain::fits(home, &chain::fleets(global, home), &keys, |_| true).await?;
    let out = args.out.unwrap_or_else(|| PathBuf::from(format!("release-{version}")));
    if out.exists() {
        return Err(Failure::new(Exit::Input, format!("{} is there already", out.display()))
            .hint("name another folder with --out, or remove that one"));
    }
    let failed = |why: io::Error| Failure::new(Exit::Failed, format!("write {}: {why}", out.display()));
    let draft = Draft::beside(&out).map_err(failed)?;
    let mut artifacts = vec![pack("fleet-agent", &agent, &draft)?];
    if let Some(todo) = &todo {
        artifacts.push(pack("fleet-todo", todo, &draft)?);
    }
    let oldest = version.oldest_counterpart();
    let minimum = Minimum { controller: oldest, agent: oldest };
    let manifest = Manifest { version, created, expires: created.after(args.expires), minimum, artifacts };
    let signed = keys.sign(RoleName::Release, &manifest)?;
    draft.write(folder::MANIFEST, &signed).map_err(failed)?;
    for (number, root) in (1..).zip(keys.chain()) {
        draft.write(&format!("root.{number}"), root).map_err(failed)?;
    }
    draft.settle(&out).map_err(failed)?;
    words::warn(&words::outlook(keys.trust(), Some(&manifest)));
    match global.output {
        Output::Json => {
            let mut document = words::manifest_document(&manifest);
            document["folder"] = json!(out);
            document["signed_by"] = words::signers(fleet_release::Kind::Manifest, &signed).into();
            printer::json(&document)?;
        }
        Output::Text => {
            let text = format!(
                "release {version}, may be installed until {}\n\n{}\nin {}; `fleetctl release publish {}` brings it \
                 to the controller\n",
                words::day(manifest.expires, SystemClock.now()),
                words::artifacts(&manifest),
                out.display(),
                out.display(),
            );
            printer::text(&text)?;
        }
    }
    Ok(Exit::Ok)
}

/// As told; else as the agent calls itself.
async fn version(agent: &Path, told: Option<Version>) -> Result<Version, Failure> {
    let own = ask(agent).await;
    match (told, own) {
        (Some(told), Ok(own)) if told != own => {
            note(&format!("{} calls itself {own}; nodes that run it will say so too", agent.display()));
            Ok(told)
        }
        (Some(told), _) => Ok(told),
        (None, Ok(own)) => Ok(own),
        (None, Err(why)) => Err(Failure::new(
            Exit::Input,
            format!("{} does not say which version it is: {why}", agent.display()),
        )
        .hint("is it a `fleet-agent` for this machine? --version says it in its place")),
    }
}

async fn ask(agent: &Path) -> Result<Version, String> {
    let program = std::path::absolute(agent).map_err(|why| why.to_string())?;
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    let answer = tokio::time::timeout(ANSWER, command.output()).await;
    let answer = answer.map_err(|_| "it does not answer".to_owned())?.map_err(|why| why.to_string())?;
    let said = String::from_utf8_lossy(&answer.stdout);
    let version = said.trim().strip_prefix("fleet-agent ").filter(|_| answer.status.success());
    version.ok_or_else(|| "it answers something else".to_owned())?.parse()
}

/// <https://reproducible-builds.org/specs/source-date-epoch/>: seconds since 1970; else now.
fn created(epoch: Option<&str>) -> Result<Timestamp, Failure> {
    let Some(text) = epoch.filter(|text| !text.is_empty()) else { return Ok(SystemClock.now()) };
    let millis = text.parse::<u32>().ok().map(|seconds| i64::from(seconds) * 1000);
    millis.map(Timestamp::from_millis).ok_or_else(|| {
        Failure::new(Exit::Input, format!("SOURCE_DATE_EPOCH is `{text}`"))
            .hint("it is a number of seconds since 1970; unset it to use the present time")
    })
}

/// Packs `program` as `name`; says what it is, packed and unpacked.
fn pack(name: &str, program: &Path, draft: &Draft) -> Result<Artifact, Failure> {
    let bytes = fs::read(program)
        .map_err(|why| Failure::new(Exit::Input, format!("read {}: {why}", program.display())))?;
    if bytes.is_empty() {
        return Err(Failure::new(Exit::Input, format!("{} is empty", program.display())));
    }
    let failed = |why: io::Error| Failure::new(Exit::Failed, format!("write {name}.gz: {why}"));
    // Its header holds neither a name nor a time.
    let mut packer = GzEncoder::new(Vec::new(), Compression::best());
    packer.write_all(&bytes).map_err(failed)?;
    let packed = packer.finish().map_err(failed)?;
    draft.write(&format!("{name}.gz"), &packed).map_err(failed)?;
    Ok(Artifact {
        name: name.to_owned(),
        size: bytes.len() as u64,
        sha256: sha256(&bytes),
        packed_size: packed.len() as u64,
        packed_sha256: sha256(&packed),
    })
}

/// SHA-256 in lower-case hex.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// An agent as far as `create` can tell.
    fn agent(dir: &Path, version: &str) -> PathBuf {
        let path = dir.join(format!("agent-{version}"));
        fs::write(&path, format!("#!/bin/sh\necho fleet-agent {version}\n")).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("set");
        path
    }

    fn told(agent: &Path, out: &Path) -> Create {
        Create {
            agent: Some(agent.to_owned()),
            todo: Some(agent.to_owned()),
            version: None,
            expires: Duration::from_secs(180 * 86_400),
            out: Some(out.to_owned()),
        }
    }

    #[tokio::test]
    async fn a_folder_is_made_once_whole_and_signed() {
        let dir = tempfile::tempdir().expect("a folder");
        let global = Global { home: Some(dir.path().join("home")), fleet: None, output: Output::Json };
        let home = Home::of(&global).expect("a home");
        let (agent, out) = (agent(dir.path(), "0.7.1"), dir.path().join("out"));
        // Another's work of nearly that name stays what it is.
        let other = dir.path().join("out.new");
        fs::create_dir(&other).expect("made");
        fs::write(other.join("manifest"), "another").expect("written");
        run(&global, &home, told(&agent, &out)).await.expect("made");
        assert_eq!(fs::read(other.join("manifest")).expect("still there"), b"another");
        let release = folder::Folder::read(&out, &[]).expect("good");
        assert_eq!(release.manifest.version.to_string(), "0.7.1");
        assert_eq!(release.manifest.minimum.agent.to_string(), "0.6.0");
        let (files, artifacts) = release.artifacts().expect("all there");
        for (file, artifact) in files.iter().zip(&artifacts) {
            let packed = fs::read(&file.path).expect("reads");
            assert_eq!((sha256(&packed), packed.len() as u64), (artifact.sha256.clone(), artifact.size));
            assert_eq!(packed[4..8], [0; 4], "no time in it");
        }
        assert_eq!(release.manifest.artifacts[0].sha256, sha256(&fs::read(&agent).expect("reads")));
        let again = run(&global, &home, told(&agent, &out)).await.expect_err("it is there");
        assert!(again.to_string().ends_with("is there already"), "{again}");
        // Whatever is changed in it afterwards is noticed, before anything is sent.
        fs::remove_file(out.join("fleet-agent.gz")).expect("removed");
        assert!(release.artifacts().is_err());
        let mut manifest = fs::read(out.join("manifest")).expect("reads");
        let last = manifest.len() - 10;
        manifest[last] ^= 1;
        fs::write(out.join("manifest"), manifest).expect("written");
        let failure = folder::Folder::read(&out, &[]).expect_err("changed");
        assert!(failure.to_string().contains("changed on its way"), "{failure}");
    }

    #[tokio::test]
    async fn versions_come_from_the_program_unless_told() {
        let dir = tempfile::tempdir().expect("a folder");
        let good = agent(dir.path(), "0.7.1");
        let told: Version = "1.0.0".parse().expect("a version");
        assert_eq!(version(&good, None).await.expect("said").to_string(), "0.7.1");
        assert_eq!(version(&good, Some(told)).await.expect("told"), told);
        let strange = agent(dir.path(), "nightly");
        assert!(version(&strange, None).await.expect_err("no version").to_string().contains("`nightly`"));
        fs::write(dir.path().join("text"), "not a program").expect("written");
        let text = dir.path().join("text");
        assert!(version(&text, None).await.is_err());
        assert_eq!(version(&text, Some(told)).await.expect("told"), told);
    }

    #[test]
    fn the_time_is_the_present_or_as_told() {
        assert_eq!(created(Some("1700000000")).expect("seconds"), Timestamp::from_millis(1_700_000_000_000));
        assert!(created(None).expect("now") > Timestamp::from_millis(1_700_000_000_000));
        for wrong in ["yesterday", "-1", "1.5", "99999999999"] {
            assert!(created(Some(wrong)).is_err(), "{wrong}");
        }
    }
}
