"""An app as the product deploys one, for the tests of the loopback server."""

import mmap
import os
import time
from pathlib import Path

import modal

HERE = Path(__file__).parent

image = (
    modal.Image.debian_slim(python_version="3.11")
    .pip_install("numpy==2.4.6")
    .env({"FROM_IMAGE": "two words"})
    .add_local_file(HERE / "conftest.py", "/opt/probeline/deep/conftest.py")
)
app = modal.App("probeline-0123", image=image)
data = modal.Volume.from_name("probeline-data", create_if_missing=True, version=2)
weights = modal.Volume.from_name("probeline-weights", create_if_missing=True, version=2)


@app.cls(volumes={"/data": data, "/weights": weights.with_mount_options(read_only=True)}, timeout=60)
class Model:
    name: str = modal.parameter()
    layers: int = modal.parameter(default=2)

    @modal.enter()
    def load(self):
        if self.name == "broken":
            raise ValueError("no such weights")
        print(f"loading {self.name}")
        self.runs = 0

    @modal.exit()
    def leave(self):
        Path("/data/left.txt").write_text(self.name)
        print("leaving")

    @modal.method()
    def describe(self, text):
        self.runs += 1
        print(f"run {self.runs} of {self.name}")
        return {
            "text": text,
            "layers": self.layers,
            "runs": self.runs,
            "pid": os.getpid(),
            "environment": dict(os.environ),
            "mounted": [path.name for path in Path("/opt/probeline/deep").iterdir()],
        }

    @modal.method()
    def nap(self, seconds):
        time.sleep(seconds)
        return seconds

    @modal.method()
    def fail(self, seconds=0):
        self.runs += 1
        if self.runs < 3:
            raise LookupError(f"failure {self.runs}")
        return self.runs

    @modal.method()
    def write(self, path, text, commit=True):
        Path(path).write_text(text)
        if commit:
            data.commit()

    @modal.method()
    def read(self, path, reload=False):
        if reload:
            data.reload()
        return Path(path).read_text() if Path(path).exists() else None

    @modal.method()
    def reload_while_open(self, path, mapped):
        with Path(path).open("rb") as stream:
            held = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if mapped else stream
            if mapped:
                stream.close()
            try:
                data.reload()
            except RuntimeError as error:
                return str(error)
            finally:
                held.close()

    @modal.method()
    def allocate(self, size):
        return len(bytearray(size))


@app.function(single_use_containers=True, retries=2, secrets=[modal.Secret.from_name("gemini-secret")])
def once(text):
    time.sleep(float(text) if text else 0)
    return os.getpid(), os.environ["GEMINI_API_KEY"]


@app.function(max_containers=1)
def double(number):
    return 2 * number
