"use strict";

// What the gateway says is shown as text, whatever is in it: nothing here makes HTML of it.

const $ = (selector, within = document) => within.querySelector(selector);
const live = $("#live");
const pools = new Map(); // by name: {section, rows}
const routes = new Map(); // by name: row

function put(element, text) {
  text = String(text);
  if (element.textContent !== text) element.textContent = text;
}

function duration(ms) {
  if (!ms) return "–";
  return ms < 10 ? `${ms.toFixed(1)} ms` : ms < 10000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

// sync removes what has gone, makes what is new, and has them all in the order of the list.
function sync(known, list, key, parent, make) {
  const names = new Set(list.map(key));
  for (const [name, item] of known) {
    if (!names.has(name)) {
      item.element.remove();
      known.delete(name);
    }
  }
  list.forEach((value, i) => {
    let item = known.get(key(value));
    if (!item) {
      item = make(value);
      known.set(key(value), item);
    }
    if (parent.children[i] !== item.element) parent.insertBefore(item.element, parent.children[i] ?? null);
    item.show(value);
  });
}

function makePool(pool) {
  const element = $("#pool").content.firstElementChild.cloneNode(true);
  const body = $("tbody", element);
  const rows = new Map();
  put($("h2", element), pool.name);
  $("table", element).setAttribute("aria-label", pool.name);
  return {
    element,
    show(pool) {
      let sum = `${pool.policy} · ${pool.available} of ${pool.endpoints.length} available`;
      if (pool.panicked) sum += " · in panic: all get requests";
      if (pool.resolve_error) sum += ` · ${pool.resolve_error}`;
      put($(".sum", element), sum);
      const most = Math.max(4, ...pool.endpoints.map((e) => e.in_flight));
      sync(rows, pool.endpoints, (e) => e.id, body, (e) => makeEndpoint(pool, e));
      for (const e of pool.endpoints) rows.get(e.id).bar(e.in_flight / most);
    },
  };
}

function makeEndpoint(pool, endpoint) {
  const element = $("#endpoint").content.firstElementChild.cloneNode(true);
  const cell = (name) => $(`[data-is=${name}]`, element);
  const button = $("button", element);
  let action = "drain";
  element.dataset.endpoint = endpoint.id;
  button.addEventListener("click", async () => {
    if (button.ariaBusy === "true") return;
    button.ariaBusy = "true"; // and not disabled, which would take the focus from it
    const url = `pools/${encodeURIComponent(pool.of)}/${action}?endpoint=${encodeURIComponent(endpoint.id)}`;
    try {
      const answer = await fetch(url, { method: "POST" });
      if (!answer.ok) alert(await answer.text());
    } catch (error) {
      alert(error.message);
    }
    button.ariaBusy = "false";
  });
  return {
    element,
    bar(part) {
      $(".bar span", element).style.width = `${Math.min(100, 100 * part)}%`;
    },
    show(e) {
      const state = cell("state");
      let text = e.state;
      if (e.state === "ejected") text += ` ${e.ejected_for_s.toFixed(0)} s`;
      put(state, text);
      state.dataset.state = e.state;
      state.title = e.why ?? "";
      put(cell("id"), e.id);
      put(cell("in_flight"), e.in_flight);
      put(cell("picked"), e.picked);
      put(cell("failed"), e.failed);
      put(cell("latency"), duration(e.latency_ms));
      put(cell("weight"), e.ramp < 1 ? `${e.weight} × ${Math.round(100 * e.ramp)} %` : e.weight);
      put(cell("zone"), e.priority ? `${e.zone ?? ""} (priority ${e.priority})` : e.zone ?? "");
      action = e.state === "draining" ? "resume" : "drain";
      put(button, action);
      button.setAttribute("aria-label", `${action} ${e.id}`);
    },
  };
}

function makeRoute() {
  const element = document.createElement("tr");
  const columns = [
    ["", (r) => r.name], ["Pool", (r) => r.pool], ["Requests", (r) => r.requests], ["In flight", (r) => r.in_flight],
    ["Tries", (r) => r.tries], ["429", (r) => r.rate_limited], ["401", (r) => r.unauthorized], ["Breaker", (r) => r.breaker ?? ""],
  ];
  const cells = columns.map(([label], i) => {
    const cell = document.createElement(i ? "td" : "th");
    if (i) cell.dataset.label = label;
    else cell.scope = "row";
    if (i >= 2 && i < 7) cell.className = "n";
    element.append(cell);
    return cell;
  });
  return { element, show: (r) => columns.forEach(([, of], i) => put(cells[i], of(r))) };
}

function show(status) {
  sync(pools, status.pools, (p) => p.name, $("#pools"), makePool);
  sync(routes, status.routes, (r) => r.name, $("#routes tbody"), makeRoute);
}

function say(text, isLive) {
  put(live, text);
  live.dataset.live = isLive ? "yes" : "no";
}

const events = new EventSource("status/events"); // connects again by itself
events.onmessage = (event) => {
  show(JSON.parse(event.data));
  say("live", true);
};
events.onerror = () => say("no connection: what is shown is old", false);
