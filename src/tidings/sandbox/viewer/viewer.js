// Keeps the page up to date: turns one stream of events into cards.

import { ago, el, emailCard, inappCard, pushCard, setStatus, smsBubble, smsThread, timeline } from "/_sandbox/cards.js";

const PAGE_SIZE = 60;
const SEARCH_AFTER_MS = 200;
const CHANNELS = ["email", "sms", "push", "inapp"];
const VENDORS = {
  sendgrid: { name: "SendGrid", own: ["bounce", "Bounces"], receipts: true },
  twilio: { name: "Twilio", own: ["bounce", "Undelivered"], receipts: true },
  fcm: { name: "FCM", own: ["unregistered", "Unregistered"] },
  smtp: { name: "SMTP", own: ["bounce", "No mailbox"] },
};
const REACH = { every: {}, half: { probability: 0.5 }, tenth: { probability: 0.1 }, once: { count: 1 } };

const $ = (id) => document.getElementById(id);
const lists = Object.fromEntries(CHANNELS.map((channel) => [channel, $(`list-${channel}`)]));
const state = { channel: "", recipient: "", paused: false, held: 0, burst: Infinity, faults: [], ready: false,
  search: 0, shown: {}, room: {}, exhausted: {}, totals: {} };

// What arrives --------------------------------------------------------------------------------------------------------

function matches(arrival) {
  return !state.recipient || `${arrival.to} ${arrival.to_name ?? ""}`.toLowerCase().includes(state.recipient);
}

// Each channel shows its newest arrivals, at most `room` of them; older ones are fetched page by page.
function place(arrival, isOlder = false) {
  const shown = state.shown[arrival.channel];
  if (!shown || shown.has(arrival.seq) || !matches(arrival)) return;
  shown.add(arrival.seq);
  const list = lists[arrival.channel];
  const put = (where, node) => (isOlder ? where.append(node) : where.prepend(node));
  if (arrival.channel !== "sms") {
    const card = { email: emailCard, push: pushCard, inapp: inappCard }[arrival.channel](arrival);
    card.dataset.seq = arrival.seq;
    put(list, card);
  } else {
    const known = [...list.children].find((one) => one.dataset.to === arrival.to);
    const thread = known ?? smsThread(arrival);
    if (!known || !isOlder) put(list, thread);
    const bubble = smsBubble(arrival);
    bubble.dataset.seq = arrival.seq;
    put(thread.querySelector(".bubbles"), bubble);
  }
  while (shown.size > state.room[arrival.channel]) shown.delete(dropOldest(list));
}

function dropOldest(list) {
  const card = list.lastElementChild;
  const last = card.querySelector(".bubbles")?.lastElementChild ?? card;
  const seq = Number(last.dataset.seq);
  last.remove();
  if (last !== card && !card.querySelector(".bubble-row")) card.remove();
  return seq;
}

async function older(channel, size) {
  const shown = state.shown[channel];
  const before = shown.size ? Math.min(...shown) : 0;
  const wanted = { channel, before, limit: size, to: state.recipient };
  const search = state.search;
  const answer = await ask("GET", `/_sandbox/arrivals?${new URLSearchParams(wanted)}`);
  if (!answer.ok || search !== state.search) return;
  const { arrivals } = await answer.json();
  state.room[channel] = Math.max(PAGE_SIZE, shown.size + arrivals.length);
  state.exhausted[channel] = arrivals.length < size;
  for (const arrival of arrivals.reverse()) place(arrival, true);
}

function openNewestMail() {
  const newest = lists.email.firstElementChild;
  for (const other of lists.email.querySelectorAll(".mail.open:not([data-touched])")) {
    if (other !== newest) other.open(false);
  }
  if (newest && !newest.dataset.touched && !lists.email.querySelector(".mail.open")) newest.open(true);
}

function show(arrivals) {
  if (state.paused) {
    state.held += arrivals.length;
    $("pause").textContent = state.held ? `Resume · ${number(state.held)} new` : "Resume";
    return;
  }
  for (const channel of CHANNELS) {
    // A full burst: the server left out arrivals between these and the ones that are shown.
    if (arrivals.filter((arrival) => arrival.channel === channel).length >= state.burst) empty(channel);
  }
  for (const arrival of arrivals) place(arrival);
  openNewestMail();
  tidy();
}

function tidy() {
  const any = CHANNELS.some((channel) => lists[channel].firstElementChild);
  const arrived = CHANNELS.some((channel) => state.totals[channel]);
  $("empty").hidden = any || arrived || !state.ready;
  $("board").classList.toggle("bare", !any);
  const chosen = state.channel ? [state.channel] : CHANNELS;
  const isMissed = Boolean(state.recipient) && !chosen.some((channel) => state.shown[channel].size);
  $("no-hit").hidden = !isMissed;
  $("no-hit").textContent = isMissed ? `Nothing is kept here for “${state.recipient}”.` : "";
  for (const channel of CHANNELS) {
    const [shown, total] = [state.shown[channel].size, state.totals[channel] ?? 0];
    const column = lists[channel].parentElement;
    const none = column.querySelector(".none");
    column.classList.toggle("vacant", !shown);
    column.classList.toggle("many", lists[channel].children.length > 2);
    none.textContent = state.recipient ? "None for this recipient" : total ? "None is kept any more" : none.dataset.says;
    const part = state.recipient ? `${number(shown)} found` : `${number(shown)} of ${number(total)}`;
    $(`part-${channel}`).textContent = state.recipient ? (shown ? part : "") : shown < total ? part : "";
    const ended = state.exhausted[channel] || (!state.recipient && shown >= total);
    column.querySelector(".older").hidden = !shown || ended;
  }
}

function number(value) {
  return value.toLocaleString("en");
}

function reset() {
  state.search += 1;
  for (const channel of CHANNELS) empty(channel);
}

function empty(channel) {
  lists[channel].replaceChildren();
  state.shown[channel] = new Set();
  state.room[channel] = PAGE_SIZE;
  state.exhausted[channel] = false;
}

function count(counts) {
  let all = 0;
  for (const channel of CHANNELS) {
    state.totals[channel] = counts[channel].taken + counts[channel].refused;
    all += state.totals[channel];
    $(`count-${channel}`).textContent = number(state.totals[channel]);
  }
  $("count-all").textContent = number(all);
  tidy();
}

function follow() {
  const source = new EventSource("/_sandbox/events");
  const on = (event, act) => source.addEventListener(event, (frame) => act(JSON.parse(frame.data)));
  source.addEventListener("open", () => live("live"));
  source.addEventListener("error", () => {
    live("offline");
    if (source.readyState === EventSource.CLOSED) setTimeout(follow, 2000);
  });
  on("hello", ({ burst }) => {
    state.held = 0;
    state.burst = burst;
    state.totals = {};
    reset();
    if (state.recipient) search(state.recipient);
  });
  on("arrivals", (arrivals) => {
    state.ready = true;
    show(arrivals);
  });
  on("status", (changes) => {
    for (const [seq, [status, error]] of Object.entries(changes)) {
      const chip = document.querySelector(`.chip[data-seq="${Number(seq)}"]`);
      if (chip) setStatus(chip, status, error);
    }
  });
  on("counts", count);
  on("faults", showFaults);
}

function live(now) {
  $("live").dataset.state = now;
  $("live").textContent = now === "live" ? "live" : "reconnecting";
}

// Filters -------------------------------------------------------------------------------------------------------------

function choose(channel) {
  state.channel = CHANNELS.includes(channel) ? channel : "";
  for (const button of document.querySelectorAll("#channels button")) {
    button.ariaPressed = String(button.dataset.channel === state.channel);
  }
  $("board").dataset.only = state.channel;
  tidy();
  history.replaceState(null, "", state.channel ? `#${state.channel}` : location.pathname);
}

async function search(text) {
  state.recipient = text.trim().toLowerCase();
  reset();
  await Promise.all(CHANNELS.map((channel) => older(channel, PAGE_SIZE)));
  openNewestMail();
  tidy();
}

// Failures and magic addresses ------------------------------------------------------------------------------------------

async function ask(method, path, body) {
  const answer = await fetch(path, {
    method, headers: body ? { "Content-Type": "application/json" } : {}, body: body ? JSON.stringify(body) : undefined,
  });
  if (!answer.ok) {
    const problem = await answer.json().catch(() => ({}));
    toast(problem.detail ?? `The sandbox answered ${answer.status}.`);
  }
  return answer;
}

function switchesOf(vendor) {
  const { own, receipts } = VENDORS[vendor];
  const switches = [
    ["Throttled", { kind: "status", status: vendor === "smtp" ? 450 : 429, retry_after: 2 }],
    ["Down", { kind: "status", status: vendor === "smtp" ? 421 : 503 }],
    ["Slow", { kind: "latency", seconds: 2 }],
    ["Hangs", { kind: "hang", seconds: 60 }],
    ["Cuts off", { kind: "reset" }],
    ["Garbage", { kind: "garbage" }],
    [own[1], { kind: own[0] }],
  ];
  if (receipts) switches.push(["No receipts", { kind: "receipt_lost" }], ["Twice", { kind: "receipt_twice" }]);
  return switches;
}

function isOn(fault, vendor, wanted) {
  return fault.vendor === vendor && !fault.recipient && fault.kind === wanted.kind &&
    (wanted.kind !== "status" || fault.status === wanted.status);
}

function showFaults(faults) {
  state.faults = faults;
  $("fault-count").hidden = !faults.length;
  $("fault-count").textContent = faults.length;
  $("fault-switches").replaceChildren(...Object.keys(VENDORS).map((vendor) => el("fieldset", {},
    el("legend", { textContent: VENDORS[vendor].name }),
    ...switchesOf(vendor).map(([label, wanted]) => {
      const set = faults.filter((fault) => isOn(fault, vendor, wanted));
      const button = el("button", { type: "button", ariaPressed: String(set.length > 0), textContent: label });
      button.addEventListener("click", () => {
        if (set.length) for (const fault of set) ask("DELETE", `/_sandbox/faults/${encodeURIComponent(fault.id)}`);
        else ask("POST", "/_sandbox/faults", { vendor, ...wanted, ...REACH[$("fault-reach").value] });
      });
      return button;
    }))));
  $("fault-list").replaceChildren(...faults.map((fault) => {
    const off = el("button", { type: "button", className: "link", textContent: "Switch off" });
    off.addEventListener("click", () => ask("DELETE", `/_sandbox/faults/${encodeURIComponent(fault.id)}`));
    return el("li", {}, el("span", { textContent: sentence(fault) }), off);
  }));
  if (!faults.length) $("fault-list").append(el("li", { className: "muted", textContent: "None: every vendor behaves." }));
}

function sentence(fault) {
  const name = VENDORS[fault.vendor]?.name ?? fault.vendor;
  const extra = [
    fault.status, fault.seconds !== null && `${fault.seconds} s`, fault.recipient && `to ${fault.recipient}…`,
    fault.probability < 1 && `${Math.round(fault.probability * 100)} %`,
    fault.count !== null && `${fault.count - fault.hits} left`, `${fault.hits} hit`,
  ].filter(Boolean);
  return `${name}: ${fault.kind.replaceAll("_", " ")} (${extra.join(", ")})`;
}

async function showMagic() {
  const { magic, hint, timeline: command } = await (await fetch("/_sandbox/magic")).json();
  $("hint").textContent = hint;
  $("hint").parentElement.hidden = !hint;
  timeline.curl = command;
  const titles = { email: "Email (SendGrid)", smtp: "Email (SMTP)", sms: "SMS", push: "Push" };
  $("magic-list").replaceChildren(...Object.entries(titles).map(([channel, title]) => el("section", {},
    el("h3", { textContent: title }),
    el("ul", { className: "plain magic" }, ...magic.filter((one) => one.channel === channel).map((one) => {
      const copy = el("button", { type: "button", className: "copy", title: "Copy" }, el("code", { textContent: one.value }));
      copy.addEventListener("click", () => copyText(one.value));
      return el("li", {}, copy, el("span", { textContent: one.effect }));
    })))));
}

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    toast("Copied");
  } catch {
    toast("This browser does not let the page copy; select the text instead.");
  }
}

function toast(text) {
  $("toast").textContent = text;
  $("toast").hidden = false;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => { $("toast").hidden = true; }, 2500);
}

// Wiring --------------------------------------------------------------------------------------------------------------

function dark() {
  const wanted = document.documentElement.dataset.theme;
  return wanted ? wanted === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function wire() {
  const theme = localStorage.getItem("theme");
  if (theme) document.documentElement.dataset.theme = theme;
  $("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    localStorage.setItem("theme", document.documentElement.dataset.theme);
  });
  for (const button of document.querySelectorAll("#channels button")) {
    button.addEventListener("click", () => choose(button.dataset.channel));
  }
  for (const button of document.querySelectorAll(".more")) {
    button.addEventListener("click", () => { choose(button.dataset.shows); scrollTo({ top: 0 }); });
  }
  $("recipient").addEventListener("input", (event) => {
    clearTimeout(search.timer);
    search.timer = setTimeout(() => search(event.target.value), SEARCH_AFTER_MS);
  });
  for (const button of document.querySelectorAll(".older")) {
    button.addEventListener("click", async () => {
      await older(button.dataset.channel, PAGE_SIZE);
      tidy();
    });
  }
  document.addEventListener("click", (event) => {
    const text = event.target.closest("[data-copies]")?.dataset.copies;
    if (text) copyText(text);
  });
  $("pause").addEventListener("click", () => {
    state.paused = !state.paused;
    $("pause").ariaPressed = String(state.paused);
    $("pause").textContent = state.paused ? "Resume" : "Pause";
    state.held = 0;
    if (!state.paused) search(state.recipient);
  });
  $("clear").addEventListener("click", () => ask("DELETE", "/_sandbox/arrivals"));
  $("copy-hint").addEventListener("click", () => copyText($("hint").textContent));
  for (const name of ["faults", "magic"]) {
    const drawer = $(name);
    for (const opener of [$(`open-${name}`), ...document.querySelectorAll(`[data-opens="${name}"]`)]) {
      opener.addEventListener("click", () => drawer.showModal());
    }
    drawer.querySelector(".close").addEventListener("click", () => drawer.close());
    drawer.addEventListener("click", (event) => { if (event.target === drawer) drawer.close(); });
  }
  setInterval(() => {
    for (const time of document.querySelectorAll("time[data-at]")) time.textContent = ago(Number(time.dataset.at));
  }, 5000);
  reset();
  choose(location.hash.slice(1));
  showFaults([]);
  showMagic();
  follow();
}

wire();
