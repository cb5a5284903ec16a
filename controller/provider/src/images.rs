//! Images, listed once for everybody: the platform's, and the customer's only where the platform has none that fits.

use fleet_mcp::{McpError, types::Image};
use tokio::sync::OnceCell;

/// What was listed so far, of all data centres.
#[derive(Debug, Default)]
pub(crate) struct Images {
    platform: OnceCell<Vec<Image>>,
    customer: OnceCell<Vec<Image>>,
}

impl Images {
    /// The first image in a data centre whose name contains `part`, or else in one line what there is. The lists are
    /// awaited only if needed, and at most once.
    pub(crate) async fn find(
        &self,
        location: &str,
        part: &str,
        platform: impl Future<Output = Result<Vec<Image>, McpError>>,
        customer: impl Future<Output = Result<Vec<Image>, McpError>>,
    ) -> Result<Result<Image, String>, McpError> {
        let here = |image: &&Image| image.datacenter_id.as_str() == location;
        let fits = |image: &&Image| here(image) && image.name.contains(part);
        let platform = self.platform.get_or_try_init(|| platform).await?;
        if let Some(found) = platform.iter().find(fits) {
            return Ok(Ok(found.clone()));
        }
        let customer = self.customer.get_or_try_init(|| customer).await?;
        if let Some(found) = customer.iter().find(fits) {
            return Ok(Ok(found.clone()));
        }
        let names: Vec<&str> =
            platform.iter().chain(customer).filter(here).map(|image| image.name.as_str()).take(20).collect();
        Ok(Err(format!(
            "{location} has no image whose name contains `{part}`; there are: {}",
            names.join(", ")
        )))
    }
}
