//! A browser as people have it, without its window.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
};

use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};

/// Chromium under its WebDriver. Dropping it ends both.
#[derive(Debug)]
pub struct Browser {
    driver: Child,
    client: Client,
}

impl Browser {
    /// Starts a browser with a window of `width` by `height` CSS pixels. Certificates are not judged here: the fleet's
    /// authority is unknown to it, and other tests look at the chain.
    ///
    /// # Panics
    /// If Chromium or its driver cannot be started; both come with `cargo xtask setup`.
    pub async fn start(width: u32, height: u32) -> Self {
        Self::with(&[&format!("--window-size={width},{height}")], None).await
    }

    /// The same as a phone shows pages: no window is ever as narrow.
    ///
    /// # Panics
    /// As [`Browser::start`].
    pub async fn phone(width: u32, height: u32) -> Self {
        let screen = json!({ "width": width, "height": height, "pixelRatio": 2.0, "touch": true });
        Self::with(&[], Some(json!({ "deviceMetrics": screen }))).await
    }

    async fn with(more: &[&str], phone: Option<Value>) -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("chromedriver starts; `cargo xtask setup` installs it");
        let said = BufReader::new(driver.stdout.take().expect("its output is piped"));
        let port = said
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.strip_suffix('.')?.rsplit_once("on port ")?.1.parse::<u16>().ok())
            .expect("chromedriver says which port it listens on");
        // The sandbox of Chromium refuses to start for root, which tests with machines must be.
        // What things are to a screen reader is told to scripts only on request.
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--enable-blink-features=ComputedAccessibilityInfo",
        ];
        let arguments: Vec<&str> = arguments.iter().chain(more).copied().collect();
        let mut options = json!({ "args": arguments });
        if let Some(phone) = phone {
            options["mobileEmulation"] = phone;
        }
        let wanted = json!({ "acceptInsecureCerts": true, "goog:chromeOptions": options });
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(wanted.as_object().expect("an object").clone())
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .expect("a browser opens");
        Self { driver, client }
    }

    /// The page in it.
    pub fn page(&self) -> &Client {
        &self.client
    }

    /// Keeps what the window shows as a PNG file.
    pub async fn picture(&self, file: &Path) {
        let png = self.client.screenshot().await.expect("a picture of the page");
        fs::create_dir_all(file.parent().expect("a folder")).expect("make the folder of pictures");
        fs::write(file, png).expect("keep the picture");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Ok(group) = i32::try_from(self.driver.id()) {
            // SAFETY: kill takes two integers and touches no memory of ours. The group is the driver's own: it and the
            // browsers it started.
            unsafe { libc::kill(-group, libc::SIGKILL) };
        }
        // It has been killed; this only collects it.
        let _ = self.driver.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_page_is_shown_and_its_picture_kept() {
        let browser = Browser::start(400, 300).await;
        browser.page().goto("data:text/html,<title>hello</title><p>world").await.expect("the page loads");
        assert_eq!(browser.page().title().await.expect("a title"), "hello");
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("pictures/hello.png");
        browser.picture(&file).await;
        assert!(fs::read(file).expect("the picture").starts_with(b"\x89PNG"));
    }
}
