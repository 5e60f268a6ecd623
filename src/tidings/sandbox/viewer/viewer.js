// Keeps the page up to date: one stream of events in, cards out.

import { ago, el, emailCard, inappCard, pushCard, setStatus, smsBubble, smsThread } from "/_sandbox/cards.js";

const KEPT = 60;
const BUBBLES = 20;
const CHANNELS = ["email", "sms", "push", "inapp"];
const HINT = `curl http://127.0.0.1:8400/v1/notifications \\
  -H "Authorization: Bearer $TIDINGS_KEY" \\
  -H "Content-Type: application/json" \\
  -d '{"to": {"email": "ana@example.com", "phone": "+34600000001"},
       "content": {"email": {"subject": "Hello", "text": "It works."},
                   "sms": {"text": "It works."}}}'`;

const VENDORS = {
  sendgrid: { name: "SendGrid", own: ["bounce", "Bounces"], receipts: true },
  twilio: { name: "Twilio", own: ["bounce", "Undelivered"], receipts: true },
  fcm: { name: "FCM", own: ["unregistered", "Unregistered"] },
  smtp: { name: "SMTP", own: ["bounce", "No mailbox"] },
};
const REACH = { every: {}, half: { probability: 0.5 }, tenth: { probability: 0.1 }, once: { count: 1 } };

const $ = (id) => document.getElementById(id);
const lists = Object.fromEntries(CHANNELS.map((channel) => [channel, $(`list-${channel}`)]));
const state = { channel: "", recipient: "", paused: false, held: [], seen: 0, faults: [], ready: false };

// What arrives --------------------------------------------------------------------------------------------------------

function matches(card) {
  return !state.recipient || card.dataset.recipient.includes(state.recipient);
}

function place(arrival) {
  if (arrival.seq <= state.seen) return;
  state.seen = arrival.seq;
  const list = lists[arrival.channel];
  if (!list) return;
  const card = arrival.channel === "sms" ? threadFor(list, arrival) : cardFor(arrival);
  card.dataset.recipient = `${arrival.to} ${arrival.to_name ?? ""}`.toLowerCase();
  card.hidden = !matches(card);
  list.prepend(card);
  while (list.children.length > KEPT) list.lastElementChild.remove();
}

function cardFor(arrival) {
  return { email: emailCard, push: pushCard, inapp: inappCard }[arrival.channel](arrival);
}

function threadFor(list, arrival) {
  let thread = [...list.children].find((one) => one.dataset.to === arrival.to);
  thread ??= smsThread(arrival);
  const bubbles = thread.querySelector(".bubbles");
  bubbles.append(smsBubble(arrival));
  while (bubbles.children.length > BUBBLES) bubbles.firstElementChild.remove();
  return thread;
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
    state.held = [...state.held, ...arrivals].slice(-4 * KEPT);
    $("pause").textContent = state.held.length ? `Resume · ${state.held.length} new` : "Resume";
    return;
  }
  for (const arrival of arrivals) place(arrival);
  openNewestMail();
  tidy();
}

function tidy() {
  const any = CHANNELS.some((channel) => lists[channel].firstElementChild);
  $("empty").hidden = any || !state.ready;
  $("board").classList.toggle("bare", !any);
  for (const channel of CHANNELS) {
    const shown = [...lists[channel].children].some((card) => !card.hidden);
    const column = lists[channel].parentElement;
    column.classList.toggle("vacant", !shown);
    column.classList.toggle("many", lists[channel].children.length > 2);
  }
}

function reset() {
  for (const list of Object.values(lists)) list.replaceChildren();
  state.seen = 0;
  state.held = [];
}

function count(counts) {
  let all = 0;
  for (const channel of CHANNELS) {
    const number = counts[channel].taken + counts[channel].refused;
    all += number;
    $(`count-${channel}`).textContent = number.toLocaleString("en");
  }
  $("count-all").textContent = all.toLocaleString("en");
}

function follow() {
  const source = new EventSource("/_sandbox/events");
  const on = (event, act) => source.addEventListener(event, (frame) => act(JSON.parse(frame.data)));
  source.addEventListener("open", () => live("live"));
  source.addEventListener("error", () => {
    live("offline");
    if (source.readyState === EventSource.CLOSED) setTimeout(follow, 2000);
  });
  on("hello", reset);
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
  history.replaceState(null, "", state.channel ? `#${state.channel}` : location.pathname);
}

function search(text) {
  state.recipient = text.trim().toLowerCase();
  for (const list of Object.values(lists)) {
    for (const card of list.children) card.hidden = !matches(card);
  }
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
  const { magic, hint } = await (await fetch("/_sandbox/magic")).json();
  $("hint").textContent = hint || HINT;
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
  $("recipient").addEventListener("input", (event) => search(event.target.value));
  $("pause").addEventListener("click", () => {
    state.paused = !state.paused;
    $("pause").ariaPressed = String(state.paused);
    $("pause").textContent = state.paused ? "Resume" : "Pause";
    if (!state.paused) show(state.held.splice(0));
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
  choose(location.hash.slice(1));
  showFaults([]);
  showMagic();
  follow();
}

wire();
