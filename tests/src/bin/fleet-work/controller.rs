//! A controller that gives whatever is asked for.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, ensure};
use async_trait::async_trait;
use fleet_proto::v1;
use fleet_task::{Controller, Permission, TaskError, TaskId};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer,
    ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls_pki_types::CertificateSigningRequestDer;

use crate::{BENCH, wish};

/// Far ahead of any bench.
const LATER_MS: i64 = 4_000_000_000_000;

/// The controller.
#[derive(Debug)]
pub struct Gives {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Gives {
    pub fn new() -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)? })
    }

    fn sign(&self, csr: Vec<u8>) -> anyhow::Result<v1::ServiceCredentials> {
        let mut request =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr))?;
        request.params.subject_alt_names = CertificateParams::new(wish::names())?.subject_alt_names;
        request.params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        Ok(v1::ServiceCredentials {
            certificate_chain: vec![request.signed_by(&self.issuer)?.der().to_vec()],
            trust_bundle: vec![self.issuer.der().to_vec()],
            not_after_ms: LATER_MS,
            renew_at_ms: LATER_MS,
        })
    }
}

/// A file beside us.
pub fn artifact(name: &str) -> anyhow::Result<v1::Artifact> {
    let path = PathBuf::from(BENCH).join(name);
    let output = Command::new("sha256sum").arg(&path).output()?;
    ensure!(output.status.success(), "sha256sum of {name}: {}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout)?;
    let sha256 = said.split_whitespace().next().context("sha256sum said nothing")?.to_owned();
    Ok(v1::Artifact { name: name.to_owned(), sha256, size: fs::metadata(path)?.len() })
}

#[async_trait]
impl Controller for Gives {
    fn is_connected(&self) -> bool {
        true
    }

    fn permit(&self, _permit: &str, _task: &TaskId) -> Permission {
        Permission::Held
    }

    fn release(&self, _permit: &str) {}

    async fn artifact(&self, artifact: &v1::Artifact) -> Result<PathBuf, TaskError> {
        Ok(PathBuf::from(BENCH).join(&artifact.name))
    }

    async fn certify(&self, csr: Vec<u8>) -> Result<v1::ServiceCredentials, TaskError> {
        self.sign(csr).map_err(|error| TaskError::Refused {
            why: format!("no certificate: {error:#}"),
            next: "correct the bench".into(),
        })
    }
}
