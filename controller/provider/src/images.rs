//! Images, listed once for everybody: the platform's, and the customer's only where the platform has none that fits.

use std::{sync::Arc, time::Duration};

use fleet_mcp::{McpError, types::Image};
use tokio::{sync::Mutex, time::Instant};

/// How long a list counts: long enough for a preview and the run that follows, far shorter than images live.
const FRESH: Duration = Duration::from_secs(5 * 60);

/// What was listed so far, of all data centres.
#[derive(Debug, Default)]
pub struct Images {
    platform: Listed,
    customer: Listed,
}

/// One list, and when it was asked for.
type Listed = Mutex<Option<(Instant, Arc<[Image]>)>>;

impl Images {
    /// The first image in a data centre whose name contains `part`, or else in one line what there is. The lists are
    /// awaited only if needed, and at most once; what they lacked a while ago is asked for again.
    pub(crate) async fn find(
        &self,
        location: &str,
        part: &str,
        platform: impl Future<Output = Result<Vec<Image>, McpError>>,
        customer: impl Future<Output = Result<Vec<Image>, McpError>>,
    ) -> Result<Result<Image, String>, McpError> {
        let here = |image: &&Image| image.datacenter_id.as_str() == location;
        let fits = |image: &Image| here(&image) && image.name.contains(part);
        let platform = listed(&self.platform, fits, platform).await?;
        if let Some(found) = platform.iter().find(|image| fits(image)) {
            return Ok(Ok(found.clone()));
        }
        let customer = listed(&self.customer, fits, customer).await?;
        if let Some(found) = customer.iter().find(|image| fits(image)) {
            return Ok(Ok(found.clone()));
        }
        let all = platform.iter().chain(&*customer);
        let names: Vec<&str> = all.filter(here).map(|image| image.name.as_str()).take(20).collect();
        Ok(Err(format!(
            "{location} has no image whose name contains `{part}`; there are: {}",
            names.join(", ")
        )))
    }
}

/// The list as it was if that is fresh and has what is looked for, else as it is.
async fn listed(
    held: &Listed,
    fits: impl Fn(&Image) -> bool,
    ask: impl Future<Output = Result<Vec<Image>, McpError>>,
) -> Result<Arc<[Image]>, McpError> {
    // Held while it is asked, so that nobody asks twice.
    let mut held = held.lock().await;
    if let Some((at, images)) = &*held
        && at.elapsed() < FRESH
        && images.iter().any(fits)
    {
        return Ok(Arc::clone(images));
    }
    let asked = Instant::now();
    let images: Arc<[Image]> = ask.await?.into();
    *held = Some((asked, Arc::clone(&images)));
    Ok(images)
}
