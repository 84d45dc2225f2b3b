"use strict";

const $ = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en");
const time = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short" });

function headers(path, body) {
  const h = {};
  if (body) h["Content-Type"] = "application/json";
  const key = path === "/api/status" ? "" : $("key").value.trim(); // which everybody may see
  if (/[^!-~]/.test(key)) throw new Error("the API key has characters that no key has");
  if (key) h.Authorization = "Bearer " + key;
  return h;
}

// call asks the API, and throws an error that people can read.
async function call(method, path, body) {
  const h = headers(path, body);
  let response;
  try {
    response = await fetch(path, { method, headers: h, body: body ? JSON.stringify(body) : undefined });
  } catch {
    throw new Error("the service cannot be reached");
  }
  if (response.status === 204) return null;
  const text = await response.text();
  let answer = {};
  try { answer = JSON.parse(text); } catch { /* said below */ }
  if (!response.ok) {
    const error = new Error(answer.detail || answer.title || "the service answered with " + response.status);
    error.status = response.status;
    throw error;
  }
  return answer;
}

function element(name, attributes, ...children) {
  const e = document.createElement(name);
  for (const [k, v] of Object.entries(attributes || {})) {
    if (k === "onclick") e.addEventListener("click", v);
    else e.setAttribute(k, v);
  }
  e.append(...children);
  return e;
}

function say(text, kind) {
  $("made").className = kind || "";
  $("made").replaceChildren(...[].concat(text));
  $("made").scrollIntoView({ block: "nearest" }); // the button may be far below
}

const bad = (error) => say(error.message, "bad");

let making = false; // one link for two clicks

$("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (making) return;
  making = true;
  const body = { url: $("url").value.trim() };
  if ($("alias").value.trim()) body.alias = $("alias").value.trim();
  if ($("expires").value) body.expires_in = Number($("expires").value);
  if ($("permanent").value) body.permanent = true;
  try {
    const link = await call("POST", "/api/links", body);
    say(["Made: ", element("a", { href: link.short_url, id: "short" }, link.short_url)], "good");
    $("url").value = $("alias").value = "";
    await list().catch(() => {}); // what was made is to be seen in any case
  } catch (error) {
    bad(error);
  } finally {
    making = false;
  }
});

let next = "";
let asked = 0; // how often the list was asked for: the last one counts

const empty = (text) => element("li", { class: "empty" }, text);

async function list(more) {
  const mine = ++asked;
  let page;
  try {
    page = await call("GET", "/api/links?limit=10" + (more ? "&after=" + encodeURIComponent(next) : ""));
  } catch (error) {
    if (mine !== asked) return;
    if (error.status !== 401) throw error;
    $("links").replaceChildren(empty("With your API key, your links are here."));
    $("more").hidden = true;
    return;
  }
  if (mine !== asked) return;
  if (!more) $("links").replaceChildren();
  for (const link of page.links) {
    const item = element("li", {},
      element("a", { class: "short", href: link.short_url }, link.short_url.replace(/^https?:\/\//, "")),
      element("span", { class: "long", title: link.url }, link.url),
      element("span", { class: "kind" }, (link.permanent ? "301" : "302") + (link.expires ? ", until " + time.format(new Date(link.expires)) : "")),
      element("span", { class: "buttons" }, element("button", { type: "button", class: "plain", "aria-label": "Clicks of " + link.code, onclick: () => chart(link.code).then(() => $("chart-title").focus()).catch(bad) }, "Clicks"),
      element("button", { type: "button", class: "plain", "aria-label": "Delete " + link.code, onclick: async () => {
        try {
          await call("DELETE", "/api/links/" + link.code);
          say("Deleted: " + link.code, "good");
          if (shown === link.code) hideChart();
          item.remove();
          await list().catch(() => {});
          $("mine").focus(); // the button is gone
        } catch (error) {
          bad(error);
        }
      } }, "Delete")));
    $("links").append(item);
  }
  if (!$("links").children.length) $("links").append(empty("None yet."));
  next = page.next || "";
  $("more").hidden = !next;
}

$("more").addEventListener("click", () => list(true).catch(bad));
$("key").addEventListener("change", () => {
  hideChart();
  list().catch(bad);
});

const svg = (name, attributes, text) => {
  const e = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  if (text !== undefined) e.textContent = text;
  return e;
};

let shown = ""; // the link whose clicks are shown

function hideChart() {
  shown = "";
  $("chart-section").hidden = true;
}

// chart shows the clicks of the last 14 days, or where there is little room, 7, and where they came from.
async function chart(code) {
  shown = code;
  const link = await call("GET", "/api/links/" + code);
  if (shown !== code) return; // another was asked for meanwhile, or it was deleted
  const days = [];
  const today = Math.floor(Date.now() / 86400000);
  const many = matchMedia("(max-width: 40rem)").matches ? 7 : 14;
  for (let d = today - many + 1; d <= today; d++) {
    const name = new Date(d * 86400000).toISOString().slice(0, 10);
    days.push([name, link.clicks.days[name] || 0]);
  }
  const most = Math.max(1, ...days.map((d) => d[1]));
  const picture = svg("svg", { viewBox: `0 0 ${many * 40} 160`, role: "img", "aria-label": number.format(link.clicks.total) + " clicks of " + code + "; in the last " + many + " days " + days.map((d) => d[0] + ": " + d[1]).join(", ") });
  picture.append(svg("line", { x1: 0, y1: 130, x2: many * 40, y2: 130 }));
  days.forEach(([name, n], i) => {
    const height = 110 * n / most;
    picture.append(svg("rect", { x: i * 40 + 6, y: 130 - height, width: 28, height, rx: 2 }));
    if (n) picture.append(svg("text", { x: i * 40 + 20, y: 124 - height, "text-anchor": "middle" }, number.format(n)));
    if (many === 7 || i % 2) picture.append(svg("text", { x: i * 40 + 20, y: 148, "text-anchor": "middle" }, name.slice(5)));
  });
  $("chart-title").textContent = "Clicks of " + code + ": " + number.format(link.clicks.total);
  $("chart").replaceChildren(picture);
  const rows = Object.entries(link.clicks.referrers).sort((a, b) => b[1] - a[1]).slice(0, 10);
  $("referrers").querySelector("tbody").replaceChildren(...rows.map(([from, n]) =>
    element("tr", {}, element("td", {}, from || "(none)"), element("td", {}, number.format(n)))));
  $("referrers").hidden = !rows.length;
  $("chart-section").hidden = false;
}

const percent = (part, whole) => whole ? (100 * part / whole).toFixed(1) + " %" : "–";

async function status() {
  let s;
  try {
    s = await call("GET", "/api/status");
  } catch (error) {
    $("away").textContent = "Not up to date: " + error.message;
    $("away").hidden = false;
    return;
  }
  $("away").hidden = true;
  const shards = Object.entries(s.shards).sort();
  const entries = [
    ["Hit ratio", percent(s.hits, s.hits + s.misses)],
    ["Links in the cache", number.format(s.cached)],
    ["Loads", number.format(s.loads)],
    ["Loads avoided by the cache", number.format(s.hits)],
    ["Loads avoided by the filter", number.format(s.avoided)],
    ["Refused by limits", number.format(s.refused)],
    ["Clicks", number.format(s.clicks)],
    ["In the queue", s.queue < 0 ? "away" : number.format(s.queue)],
    ["In the spool", number.format(s.spool_bytes) + " B"],
    ["Clicks dropped", number.format(s.dropped)],
  ];
  $("status").replaceChildren(...entries.map(([k, v]) => element("div", {}, element("dt", {}, k), element("dd", {}, v))));
  const most = Math.max(1, ...shards.map(([, n]) => n[0]));
  $("shards").replaceChildren(...shards.map(([id, n]) => element("div", { class: "shard" },
    element("span", {}, id),
    element("meter", { min: 0, max: most, value: n[0], "aria-label": id + ": " + n[0] + " links" }),
    element("span", {}, number.format(n[0]) + " links, " + number.format(n[1]) + " clicks"))));
  if (s.missing) $("shards").append(element("p", {}, s.missing));
}

// watch asks for the status, and the clicks that are shown, while somebody can see them.
async function watch() {
  if (!document.hidden) {
    await status();
    const code = shown;
    if (code) {
      await chart(code).catch((error) => {
        if (error.status === 404 && shown === code) hideChart(); // it has expired
      });
    }
  }
  setTimeout(watch, 2000);
}

list().catch(bad);
watch();
