use serde::{Deserialize, Serialize};

/// The envelope of every change's answer and of every error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Response {
    /// `DEPLOY_VLAN`.
    #[serde(default)]
    pub operation: String,
    /// `OK`, `IN_PROGRESS`, or the code of what went wrong.
    #[serde(default)]
    pub response_code: String,
    /// For people.
    #[serde(default)]
    pub message: String,
    /// Ids of new things.
    #[serde(default)]
    pub info: Vec<NameValue>,
    /// What might need attention.
    #[serde(default)]
    pub warning: Vec<NameValue>,
    /// Details of what went wrong.
    #[serde(default)]
    pub error: Vec<NameValue>,
    /// For the operator of the cloud.
    pub request_id: Option<String>,
}

impl Response {
    /// Whether the change was done or accepted.
    pub fn is_success(&self) -> bool {
        matches!(self.response_code.as_str(), "OK" | "IN_PROGRESS")
    }

    /// The value named `name` in `info`.
    pub fn info(&self, name: &str) -> Option<&str> {
        self.info.iter().find(|info| info.name == name).map(|info| info.value.as_str())
    }
}

/// A named value of the envelope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameValue {
    /// Its name.
    pub name: String,
    /// Its value.
    #[serde(default)]
    pub value: String,
}
