//! The todo application as two people see it, one in Amsterdam and one in Brussels.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use fantoccini::{Locator, key::Key};
use fleet_tests::Browser;

use crate::nodes::Ways;

const AMSTERDAM: &str = "EU7rethink01";
const BRUSSELS: &str = "EU9rethink01";
/// What it takes to make French fries.
const FRIES: [&str; 5] = [
    "Peel the potatoes",
    "Cut them into sticks",
    "Fry them at 150 °C",
    "Let them rest",
    "Fry them at 180 °C",
];
/// How many of them Brussels has done.
const DONE: usize = 2;
/// A desktop's window and a phone's, in CSS pixels.
const DESKTOP: (u32, u32) = (1280, 800);
const PHONE: (u32, u32) = (390, 844);
/// How long a change may take to another browser before the test gives up. What it really takes is printed.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is typed in Amsterdam shows in Brussels without a reload, and what Brussels ticks shows in Amsterdam.
pub async fn lives_in_every_browser(ways: &Ways) {
    let amsterdam = open(ways, AMSTERDAM, DESKTOP).await;
    let brussels = open(ways, BRUSSELS, PHONE).await;
    // Gone if the page were loaded anew.
    for page in [&amsterdam, &brussels] {
        page.page().execute("window.loaded = 'once'", vec![]).await.expect("a script runs");
    }
    for text in FRIES {
        let field = amsterdam.page().find(Locator::Id("new-todo")).await.expect("a place to type");
        field.send_keys(&format!("{text}{}", char::from(Key::Enter))).await.expect("typing");
        let took = until(&brussels, &format!("return {}", shown(text))).await;
        eprintln!("`{text}` typed in Amsterdam was seen in Brussels after {} ms", took.as_millis());
    }
    for text in &FRIES[..DONE] {
        let tick = format!("{} .querySelector('.toggle').click()", row(text));
        brussels.page().execute(&tick, vec![]).await.expect("a click");
        let took = until(&amsterdam, &format!("return {} .matches('.completed')", row(text))).await;
        eprintln!("`{text}` ticked in Brussels was seen in Amsterdam after {} ms", took.as_millis());
    }
    for (browser, name) in [(&amsterdam, "desktop-amsterdam"), (&brussels, "phone-brussels")] {
        let loaded = browser.page().execute("return window.loaded", vec![]).await.expect("a script runs");
        assert_eq!(loaded, "once", "{name} was loaded anew");
        browser.picture(&pictures().join(format!("todo-{name}.png"))).await;
    }
    for (browser, node) in [(&amsterdam, AMSTERDAM), (&brussels, BRUSSELS)] {
        let answered = browser.page().find(Locator::Id("node")).await.expect("the footer names the node");
        assert_eq!(answered.text().await.expect("its text"), node);
    }
}

/// The list and its ticks are still there, on every node asked.
pub async fn has_lost_nothing(ways: &Ways) {
    for node in [AMSTERDAM, BRUSSELS] {
        let browser = open(ways, node, DESKTOP).await;
        for (index, text) in FRIES.iter().enumerate() {
            until(&browser, &format!("return {}", shown(text))).await;
            let done = format!("return {} .matches('.completed')", row(text));
            let done = browser.page().execute(&done, vec![]).await.expect("a script runs");
            assert_eq!(done, index < DONE, "`{text}` on {node}");
        }
    }
}

async fn open(ways: &Ways, node: &str, (width, height): (u32, u32)) -> Browser {
    let browser = Browser::start(width, height).await;
    browser.page().goto(&ways.todo(node)).await.expect("the page loads");
    browser
}

/// An expression for the row that shows `text`; the text of a todo here needs no quoting.
fn row(text: &str) -> String {
    format!(
        "[...document.querySelectorAll('#list li')].find(row => row.querySelector('.text').textContent === '{text}')"
    )
}

fn shown(text: &str) -> String {
    format!("{} !== undefined", row(text))
}

/// Waits until the script says true; how long that took.
async fn until(browser: &Browser, script: &str) -> Duration {
    let started = Instant::now();
    loop {
        if browser.page().execute(script, vec![]).await.expect("a script runs") == true {
            return started.elapsed();
        }
        assert!(started.elapsed() < PATIENCE, "not within {} s: {script}", PATIENCE.as_secs());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Pictures are kept for people to look at.
fn pictures() -> PathBuf {
    let target = std::env::var_os("FLEET_DIST").expect("FLEET_DIST names the folder of finished programs");
    PathBuf::from(target).join("../pictures")
}
