//! The disk that forgets, held by several, for tests.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    io::{self, Read},
    path::Path,
    rc::Rc,
};

use fleet_supervisor::disk::Disk;

use crate::model::{Fault, Image, Model};

/// What is done through one is seen through all of its clones.
#[derive(Clone)]
pub struct Held {
    model: Rc<RefCell<Model>>,
    free: Rc<Cell<Option<u64>>>,
}

impl Held {
    pub fn new(image: &Image, fault: Fault) -> Self {
        Self { model: Rc::new(RefCell::new(Model::new(image, fault))), free: Rc::default() }
    }

    /// Has so many bytes free, as far as it says.
    pub fn with_free(self, bytes: u64) -> Self {
        self.free.set(Some(bytes));
        self
    }

    /// From now on this goes wrong; what was not synced yet counts as synced.
    pub fn strikes(&self, fault: Fault) {
        let image = self.image();
        *self.model.borrow_mut() = Model::new(&image, fault);
    }

    pub fn image(&self) -> Image {
        self.model.borrow().image()
    }

    pub fn after_cut(&self) -> BTreeSet<Image> {
        self.model.borrow().after_cut()
    }

    pub fn dark(&self) -> bool {
        self.model.borrow().dark()
    }

    pub fn unread(&self) -> bool {
        self.model.borrow().unread()
    }

    /// Calls that change something, so far.
    pub fn calls(&self) -> usize {
        self.model.borrow().calls
    }

    /// Files opened for reading, so far.
    pub fn reads(&self) -> usize {
        self.model.borrow().reads
    }
}

impl Disk for Held {
    type File = <Model as Disk>::File;

    fn create(&mut self, path: &Path, mode: u32) -> io::Result<Self::File> {
        self.model.borrow_mut().create(path, mode)
    }

    fn write(&mut self, file: &mut Self::File, bytes: &[u8]) -> io::Result<()> {
        self.model.borrow_mut().write(file, bytes)
    }

    fn sync(&mut self, file: &mut Self::File) -> io::Result<()> {
        self.model.borrow_mut().sync(file)
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.model.borrow_mut().rename(from, to)
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.model.borrow_mut().remove(path)
    }

    fn make_folder(&mut self, path: &Path) -> io::Result<()> {
        self.model.borrow_mut().make_folder(path)
    }

    fn sync_folder(&mut self, path: &Path) -> io::Result<()> {
        self.model.borrow_mut().sync_folder(path)
    }

    fn open(&mut self, path: &Path) -> io::Result<Option<Box<dyn Read>>> {
        self.model.borrow_mut().open(path)
    }

    fn free(&mut self, path: &Path) -> io::Result<u64> {
        self.free.get().map_or_else(|| self.model.borrow_mut().free(path), Ok)
    }
}
