# SPDX-License-Identifier: MIT
"""dashboard.py - what test_dashboard_long.sh looks at: dashboard.py SOCKET PID SCRATCH SCREENSHOTS

The broker of SOCKET has the process id PID; the exporter and the workers are started here.
"""

import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time

from browser import Browser, die_with_parent

PROMISED = 2.0  # seconds in which the page shows what happened
NOISE = 3.0  # that a busy machine may add; WAIT_NOISE_MS of wait.h
SOON = PROMISED + NOISE
PATIENCE = 30  # for what has to come at all
SLOW = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x<%d) SELECT count(*) FROM c"
HOSTILE = ("<script>window.hacked=1</script><img src=x onerror=\"window.hacked=2\">"
           "</td><a href='javascript:window.hacked=3'>&lt;")


class Tap:
    def __init__(self):
        self.count = 0
        self.failed = False

    def ok(self, passed, text, detail=None):
        self.count += 1
        self.failed |= not passed
        print("%s %d - %s" % ("ok" if passed else "not ok", self.count, text))
        if not passed and detail is not None:
            print("#   " + str(detail)[:2000].replace("\n", "\n#   "))
        sys.stdout.flush()

    def equal(self, got, want, text):
        self.ok(got == want, text, "got %r, want %r" % (got, want))

    def within(self, seconds, limit, text):
        self.ok(seconds is not None and seconds <= limit, text,
                "it took %s s, %s were given" % (seconds, limit))


class Exporter:
    def __init__(self, sock, port=0):
        self.process = subprocess.Popen(
            [os.environ["BROKERSTAT_BIN"], "-n", sock, "--listen", str(port)],
            stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent)
        line = self.process.stdout.readline()
        self.url = re.search(r"http://\S+/", line).group(0)
        self.port = int(self.url.rstrip("/").rsplit(":", 1)[1])

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Worker:
    """A worker that does what it is told; see itworker.c."""

    def __init__(self, sock, name):
        self.process = subprocess.Popen(
            [os.environ["IT_WORKER"], sock, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, preexec_fn=die_with_parent)
        assert self.process.stdout.readline() == "ok\n", "the worker cannot attach"

    def tell(self, verb, tag, sql):
        self.process.stdin.write("%s\t%s\t%s\n" % (verb, tag, sql))
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def end(self):
        self.process.stdin.close()
        self.process.wait()

    def kill(self):
        self.process.kill()
        self.process.wait()


class Load:
    """A worker that is always busy with small statements."""

    def __init__(self, sock):
        self.worker = Worker(sock, "load")
        self.stopping = False
        self.thread = threading.Thread(target=self.work)
        self.thread.start()

    def work(self):
        for i in itertools.count():
            if self.stopping:
                break
            self.worker.tell("exec", "GET /item", "SELECT %d" % (i % 10))

    def stop(self):
        self.stopping = True
        self.thread.join()
        self.worker.end()


ROW = """
    const [table, text] = arguments;
    return [...document.querySelectorAll('#' + table + ' tbody tr')].some(
        (tr) => !tr.classList.contains('empty') && tr.textContent.includes(text));
"""


def test_live(t, b, load_pid):
    t.within(b.wait_until("return document.title === 'shmbroker: running'", PATIENCE), PATIENCE,
             "the page says that the broker runs")
    t.within(b.wait_until(ROW, PATIENCE, "t-pools", "main"), PATIENCE, "the pool is there")
    t.within(b.wait_until(ROW, PATIENCE, "t-servers", "local"), PATIENCE, "so is the server")
    t.within(b.wait_until(ROW, PATIENCE, "t-workers", str(load_pid)), PATIENCE, "and the worker")
    tile = "return document.querySelector('#tiles dd').textContent"
    t.within(b.wait_until(tile + " !== '0' && document.querySelector('#tiles dd').textContent !== '–'",
                          PATIENCE), PATIENCE, "the throughput is shown")
    first = b.run("return document.querySelector('#t-workers tbody').textContent")
    t.within(b.wait_until(
        "return document.querySelector('#t-workers tbody').textContent !== arguments[0]", SOON, first),
        SOON, "numbers change as time goes by")


def test_charts(t, b):
    t.equal(b.run("return document.querySelectorAll('#charts canvas').length"), 4, "four charts")
    t.ok(b.run("charts[0].draw(new History(), [0, 1]); "
               "return !charts[0].figure.textContent.includes('Invalid')"), "which may be empty")
    t.equal(b.run("""
        const h = new History();
        h.load({pool: null, time: [1, 2, 3], a: [1, 2, 3]});
        h.load({pool: null, time: [3, 4], a: [7, 8]});
        h.load({pool: null, time: [], a: []});
        h.load({pool: null, time: [100, 101], a: [4, 5], b: [6, 7]});
        return JSON.stringify([h.fields.time, ...h.columns(["a", "b"]).slice(1)])"""),
            "[[1,2,3,4,5,100,101],[1,2,7,8,null,4,5],[null,null,null,null,null,6,7]]",
            "what an exporter that was started again does not know any more stays")
    t.within(b.wait_until("return [...document.querySelectorAll('#charts canvas')].every((c) => "
                          "/latest: .*\\d/.test(c.getAttribute('aria-label')))", PATIENCE), PATIENCE,
             "each says in words what it shows")
    drawn = """
        return [...document.querySelectorAll('#charts canvas')].map((c) => {
            const [r, g, b] = arguments[0];
            const data = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
            let n = 0;
            for (let i = 0; i < data.length; i += 4) {
                n += data[i] === r && data[i + 1] === g && data[i + 2] === b && data[i + 3] === 255;
            }
            return n > 0;
        }).every((x) => x)"""
    t.within(b.wait_until(drawn, PATIENCE, [0x24, 0x57, 0xc5]), PATIENCE, "lines are drawn in all of them")
    b.run("""
        const menu = document.querySelectorAll('#charts select')[1];
        menu.value = 'wait';
        menu.dispatchEvent(new Event('change'));""")
    t.within(b.wait_until("return document.querySelectorAll('#charts canvas').length === 4", PATIENCE),
             PATIENCE,
             "a chart can show something else")
    b.run("""
        const menu = document.getElementById('pool');
        menu.value = 'main';
        menu.dispatchEvent(new Event('change'));""")
    t.within(b.wait_until("return past.fields.pool === undefined && past.fields.time.length > 2 && "
                          "past.fields.statements.at(-1) > 0", PATIENCE), PATIENCE, "one pool can be chosen")


def test_slow(t, b, sock):
    w = Worker(sock, "reporter")
    t.equal(w.tell("exec", "GET /report", SLOW % 1000000), "ok", "a slow statement ends")
    t.within(b.wait_until(ROW, SOON, "t-slow", "GET /report"), SOON, "it appears at once")
    t.within(b.wait_until(ROW, SOON, "t-shapes", "select x + ? from c"), SOON, "and so does its shape")
    sql = SLOW % 999999 + " WHERE '" + HOSTILE.replace("'", "''") + "' <> ''"
    t.equal(w.tell("exec", HOSTILE[:60], sql), "ok", "a hostile one ends")
    t.within(b.wait_until(ROW, SOON, "t-slow", sql), SOON, "its text is shown as it is")
    t.within(b.wait_until(ROW, SOON, "t-slow", HOSTILE[:60]), SOON, "and so is its tag")
    t.equal(b.run("return document.querySelectorAll('main script, main img, main td a').length"), 0,
            "nothing of it became markup")
    t.equal(b.run("return window.hacked ?? null"), None, "nothing of it ran")
    w.end()


def test_workers(t, b, sock):
    w = Worker(sock, "holder")
    t.equal(w.tell("begin", "POST /checkout", "SELECT 1"), "ok", "a worker begins a transaction")
    t.within(b.wait_until(ROW, SOON, "t-leases", str(w.process.pid)), SOON, "who holds it is shown")
    t.ok(b.run(ROW, "t-leases", "POST /checkout"), "and for which request")
    t.within(b.wait_until(ROW, SOON, "t-leases", "select ?"), SOON, "and what it ran")
    w.kill()
    t.within(b.wait_until(ROW, SOON, "t-events", "worker %d (holder)" % w.process.pid), SOON,
             "its death is shown within two seconds")
    t.within(b.wait_until("return !document.querySelector('#t-leases tbody').textContent.includes("
                          "arguments[0])", SOON, str(w.process.pid)), SOON, "it holds nothing any more")


def test_keyboard(t, b):
    b.run("document.activeElement.blur(); window.scrollTo(0, 0)")
    b.press("\ue004")  # Tab
    t.equal(b.run("return document.activeElement.className"), "skip", "the first Tab offers a short cut")
    t.ok(b.run("return document.activeElement.getBoundingClientRect().left >= 0"), "which can be seen then")
    b.run("document.querySelectorAll('#t-workers th button')[6].focus()")
    b.press("\ue007")  # Enter
    t.equal(b.run("return document.querySelectorAll('#t-workers th')[6].ariaSort"), "descending",
            "Enter on a title sorts")
    b.press("\ue007")
    t.equal(b.run("return document.querySelectorAll('#t-workers th')[6].ariaSort"), "ascending",
            "and again the other way round")
    t.equal(b.run("""
        return [...document.querySelectorAll('select, button, a, summary, [tabindex]')].filter((e) => {
            e.focus();
            return e.offsetParent !== null && document.activeElement !== e;
        }).length"""), 0, "everything that can be used can be focused")
    b.run("document.querySelector('#t-slow details').open = true")
    b.run("document.getElementById('pause').focus()")
    b.press(" ")
    t.equal(b.run("return document.getElementById('pause').ariaPressed"), "true", "space pauses")
    before = b.run("return document.querySelector('#t-workers tbody').textContent")
    b.wait_until("return performance.now() - arrived < 100", PATIENCE)
    b.wait_until("return performance.now() - arrived > 500", PATIENCE)
    t.equal(b.run("return document.querySelector('#t-workers tbody').textContent"), before,
            "paused, nothing moves")
    b.press(" ")
    t.within(b.wait_until("return document.querySelector('#t-workers tbody').textContent !== arguments[0]",
                          PATIENCE, before), PATIENCE, "resumed, it does")
    t.equal(b.run("return document.querySelectorAll('#t-slow details[open]').length"), 1,
            "what was opened stays open")


def test_stopped(t, b, pid):
    os.kill(pid, signal.SIGSTOP)
    t.within(b.wait_until("return document.getElementById('state').textContent === 'stopped'", SOON), SOON,
             "a stopped broker is noticed")
    t.ok(b.run("return !document.getElementById('alarm').hidden && "
               "document.getElementById('alarm').textContent.includes('is stopped')"), "and said aloud")
    os.kill(pid, signal.SIGCONT)
    t.within(b.wait_until("return document.getElementById('state').textContent === 'running' && "
                          "document.getElementById('alarm').hidden", SOON), SOON, "it runs again")


def test_looks(t, b, shots):
    colour = "return getComputedStyle(document.body).backgroundColor"
    b.emulate("light")
    light = b.run(colour)
    b.screenshot(os.path.join(shots, "light.png"), whole=True)
    b.emulate("dark")
    t.ok(b.run(colour) != light, "there is a dark mode")
    b.screenshot(os.path.join(shots, "dark.png"), whole=True)
    b.emulate("light", 390, 844)
    t.within(b.wait_until("return innerWidth === 390 && document.documentElement.scrollWidth <= 390 && "
                          "[...document.querySelectorAll('canvas')].every((c) => c.clientWidth < 390)", PATIENCE),
             PATIENCE, "it fits a phone")
    b.screenshot(os.path.join(shots, "phone.png"), whole=True)
    b.emulate("light", 1280, 1000)


def test_safety(t, b, url):
    # test_charts() reads pixels, again and again on a slow machine, which Chromium remarks upon
    said = [m for m in b.messages() if "getImageData" not in m]
    t.equal(said, [], "the console stayed empty: no error, no violation of the policy")
    t.equal(b.run("return performance.getEntriesByType('resource').map((e) => e.name)"
                  ".filter((n) => !n.startsWith(arguments[0]))", url), [], "nothing came from elsewhere")
    t.equal(b.run("""
        try {
            document.body.innerHTML = '<p>x</p>';
            return 'taken';
        } catch (e) {
            return e.name;
        }"""), "TypeError", "the browser lets no text become markup")
    b.run("""
        const s = document.createElement('style');
        s.textContent = 'body { outline: 9px solid red }';
        document.body.append(s);""")
    t.equal(b.run("return getComputedStyle(document.body).outlineStyle"), "none",
            "nor anything inline take effect")
    t.ok(any("Content Security Policy" in m for m in b.messages()), "and says so in the console")


def test_exporter_gone(t, b, exporter, sock):
    exporter.stop()
    t.within(b.wait_until("return document.getElementById('alarm').textContent.startsWith('No data')", SOON),
             SOON, "a lost connection is said aloud")
    again = Exporter(sock, exporter.port)
    t.within(b.wait_until("return document.getElementById('state').textContent === 'running' && "
                          "document.getElementById('alarm').hidden", PATIENCE),
             PATIENCE, "the page comes back by itself")
    return again


def test_dead(t, b, pid):
    os.kill(pid, signal.SIGKILL)
    t.within(b.wait_until("return document.getElementById('state').textContent === 'dead'", SOON), SOON,
             "a dead broker is noticed")
    t.ok(b.run(ROW, "t-pools", "main"), "what it left is shown")


def main():
    sock, pid, scratch, shots = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
    t = Tap()
    exporter = Exporter(sock)
    load = Load(sock)
    profile = os.path.join(scratch, "browser")
    os.mkdir(profile)
    try:
        with Browser(profile) as b:
            b.open(exporter.url)
            b.emulate("light")
            test_live(t, b, load.worker.process.pid)
            test_charts(t, b)
            test_slow(t, b, sock)
            test_workers(t, b, sock)
            test_keyboard(t, b)
            test_stopped(t, b, pid)
            test_looks(t, b, shots)
            test_safety(t, b, exporter.url)
            exporter = test_exporter_gone(t, b, exporter, sock)
            load.stop()
            test_dead(t, b, pid)
    finally:
        load.stopping = True
        exporter.stop()
    print("1..%d" % t.count)
    return 1 if t.failed else 0


if __name__ == "__main__":
    sys.exit(main())
