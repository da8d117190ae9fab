"use strict";
// The status page: asks the endpoints once a second, and draws what they answer.

const POINTS = 120;
const find = (id) => document.getElementById(id);
const GIB = 1024 ** 3;

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

// ---- the API key, where the server wants one: kept by this page alone, until it is left

let key = "";

async function ask(path, options = {}) {
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  const response = await fetch(path, { ...options, headers });
  find("key-section").hidden = response.status !== 401;
  find("key-wrong").hidden = !key;
  return response;
}

find("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = find("key").value.trim();
  find("key").value = "";
  poll();
});

async function json(path) {
  const response = await ask(path);
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response.json();
}

// ---- what is fixed once the plan is made

function showPlan(status) {
  find("model").textContent = status.model;
  find("profile").textContent = status.profile;
  find("reason").textContent = status.reason;
  find("version").textContent = `version ${status.version}`;
  find("machine").replaceChildren(...status.machine.map((line) => element("li", line)));
  showMemory(status.memory);
  const rows = status.ranking.map((other) => {
    const row = element("tr");
    row.append(element("td", other.name, "name"), element("td", other.status, "soft name"), element("td", other.reason));
    return row;
  });
  find("ranking").tBodies[0].replaceChildren(...rows);
}

function showMemory(memory) {
  const total = memory.reduce((sum, part) => sum + part.bytes, 0) || 1;
  const bars = memory.map((part, i) => {
    const bar = element("div", undefined, `c${i}`);
    bar.style.width = `${(100 * part.bytes) / total}%`;
    bar.title = part.name;
    return bar;
  });
  find("memory").replaceChildren(...bars);
  const legend = memory.map((part, i) => {
    const item = element("li");
    item.append(element("span", undefined, `dot c${i}`), `${part.name} ${(part.bytes / GIB).toFixed(2)} GiB`);
    return item;
  });
  find("memory-legend").replaceChildren(...legend);
}

// ---- the start

function showStart(startup, draining) {
  const state = startup.failure ? "failed" : draining ? "stopping" : startup.ready ? "ready" : "starting";
  const badge = find("state");
  badge.textContent = state;
  badge.className = `badge ${{ ready: "good", failed: "bad" }[state] || ""}`;
  find("failure").hidden = !startup.failure;
  find("failure").textContent = startup.failure || "";
  document.body.classList.toggle("ready", state === "ready"); // then the start stands last
  find("send").disabled = state !== "ready";
  const rows = startup.phases.map((phase) => {
    const row = element("tr");
    const bar = element("td");
    if (phase.state === "running") {
      const progress = element("progress");
      if (phase.percent !== null) Object.assign(progress, { max: 100, value: phase.percent });
      bar.append(progress);
    } else {
      bar.textContent = phase.state;
      bar.className = phase.state === "failed" ? "bad" : "soft";
    }
    row.append(element("td", phase.phase), bar, element("td", `${phase.seconds.toFixed(1)} s`, "number"));
    return row;
  });
  find("phases").tBodies[0].replaceChildren(...rows);
}

// ---- the metrics

function parseMetrics(text) {
  const sums = {};
  for (const line of text.split("\n")) {
    const match = /^([a-z0-9_]+)(?:\{[^}]*\})? ([^ ]+)/.exec(line);
    if (match) sums[match[1]] = (sums[match[1]] || 0) + Number(match[2]);
  }
  return sums;
}

class Plot {
  constructor(id, floor) {
    this.svg = find(id);
    this.svg.setAttribute("viewBox", `0 0 ${POINTS - 1} 100`);
    this.svg.setAttribute("preserveAspectRatio", "none");
    this.floor = floor; // the least value that fills the height
    this.values = Array(POINTS).fill(0);
    for (const name of ["area", "curve"]) {
      this[name] = document.createElementNS("http://www.w3.org/2000/svg", "path");
      this[name].setAttribute("class", name);
      this.svg.append(this[name]);
    }
  }

  add(value) {
    this.values = [...this.values.slice(1), value];
    const top = Math.max(this.floor, ...this.values) * 1.08;
    const curve = this.values.map((v, x) => `${x ? "L" : "M"}${x} ${(98 - (96 * v) / top).toFixed(1)}`).join("");
    this.curve.setAttribute("d", curve);
    this.area.setAttribute("d", `${curve}L${POINTS - 1} 100L0 100Z`);
  }
}

const plots = { rate: new Plot("rate-plot", 10), itl: new Plot("itl-plot", 1), kv: new Plot("kv-plot", 1) };
let last = null;

function showMetrics(now) {
  const seconds = last ? (now.at - last.at) / 1000 : 1;
  const grown = (name) => (last ? (now[name] || 0) - (last[name] || 0) : 0);
  const mean = (name) => (grown(`${name}_count`) > 0 ? (1000 * grown(`${name}_sum`)) / grown(`${name}_count`) : null);
  const rate = grown("generation_tokens_total") / seconds;
  const running = now.num_requests_running || 0;
  // While answers run no sequence may end: then the time of a token follows from the rate.
  const itl = mean("time_per_output_token_seconds") ?? (rate && running ? (1000 * running) / rate : 0);
  const kv = 100 * (now.gpu_cache_usage_perc || 0);
  find("rate").textContent = rate.toFixed(rate < 10 ? 1 : 0);
  find("prompt-rate").textContent = `prompts ${(grown("prompt_tokens_total") / seconds).toFixed(0)} tokens/s`;
  if (itl) find("itl").textContent = itl.toFixed(1);
  const ttft = mean("time_to_first_token_seconds");
  if (ttft !== null) find("ttft").textContent = `first token ${ttft.toFixed(0)} ms`;
  find("kv").textContent = kv.toFixed(1);
  find("requests").textContent = `${running} running, ${now.num_requests_waiting || 0} waiting`;
  plots.rate.add(rate);
  plots.itl.add(itl);
  plots.kv.add(kv);
  last = now;
}

let planShown = "";

let timer = 0;

async function poll() {
  clearTimeout(timer);
  try {
    const status = await json("/v1/status");
    const plan = JSON.stringify(status);
    if (plan !== planShown) showPlan(status);
    planShown = plan;
    showStart(await json("/v1/startup"), status.draining);
    const metrics = await (await ask("/v1/metrics")).text();
    showMetrics({ ...parseMetrics(metrics), at: performance.now() });
  } catch {
    const isLocked = !find("key-section").hidden;
    find("state").textContent = isLocked ? "locked" : "unreachable";
    find("state").className = isLocked ? "badge" : "badge bad";
    if (isLocked) return; // a key, once given, goes on
  }
  timer = setTimeout(poll, 1000);
}

// ---- the chat

const messages = [];

function say(text, className) {
  const line = element("p", text, className);
  find("talk").append(line);
  find("talk").scrollTop = find("talk").scrollHeight;
  return line;
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const whole = (text + value).split("\n\n");
    text = whole.pop();
    for (const event of whole) {
      const data = event.replace(/^data: /, "");
      if (data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

async function answer(question) {
  messages.push({ role: "user", content: question });
  say(question, "user");
  const line = say("…");
  let text = "";
  const response = await ask("/v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ model: find("model").textContent, messages, stream: true, temperature: 0.6 }),
  });
  if (!response.ok) throw new Error((await response.json()).error.message);
  for await (const chunk of events(response.body)) {
    if (chunk.error) throw new Error(chunk.error.message);
    text += chunk.choices[0]?.delta.content || "";
    line.textContent = text || "…";
    find("talk").scrollTop = find("talk").scrollHeight;
  }
  messages.push({ role: "assistant", content: text });
}

find("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  const question = find("question").value.trim();
  if (!question || find("send").disabled) return;
  find("question").value = "";
  try {
    await answer(question);
  } catch (error) {
    messages.pop();
    say(error.message, "bad");
  }
});

poll();
