// Shows the OpenAPI document that lies beside this page. The commands in it name the address that the settings call
// public; on the page they name the address under which the reader has reached it.

const document_url = new URL("openapi.json", location.href);
const here = new URL(".", location.href).href.replace(/\/$/, "");

const wishes = matchMedia("(prefers-color-scheme: dark)");
const dress = () => document.documentElement.classList.toggle("dark-mode", wishes.matches);
wishes.addEventListener("change", dress);
dress();

function addressed(value, from) {
  if (typeof value === "string") return value.replaceAll(`${from}/`, `${here}/`);
  if (Array.isArray(value)) return value.map((inner) => addressed(inner, from));
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, addressed(inner, from)]));
}

async function show() {
  const answer = await fetch(document_url);
  const told = await answer.json();
  const spec = addressed(told, told["x-public-url"]);
  spec.servers = [{ url: here }];
  SwaggerUIBundle({
    spec,
    domNode: document.getElementById("reference"),
    presets: [SwaggerUIBundle.presets.apis],
    layout: "BaseLayout",
    deepLinking: true,
    displayRequestDuration: true,
    persistAuthorization: true,
    tryItOutEnabled: true,
    defaultModelsExpandDepth: 0,
    validatorUrl: null,
  });
}

// What Swagger UI leaves without a name, and links inside of buttons, which no keyboard reaches in order.
function mend() {
  for (const box of document.querySelectorAll("textarea:not([aria-label])")) box.ariaLabel = "Request body";
  for (const choice of document.querySelectorAll("select:not([aria-label])")) {
    choice.ariaLabel = choice.id === "servers" ? "Server" : "Choice";
  }
  for (const link of document.querySelectorAll(".opblock-summary-control a[href]")) link.removeAttribute("href");
}

new MutationObserver(mend).observe(document.getElementById("reference"), { childList: true, subtree: true });
show();
