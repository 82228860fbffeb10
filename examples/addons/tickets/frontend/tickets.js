// A custom element with the unfinished tickets of the caller's organization, the most pressing first:
//   <metacore-tickets api="/api" token="…"></metacore-tickets>
class MetacoreTickets extends HTMLElement {
  connectedCallback() {
    this.attachShadow({ mode: "open" });
    this.refresh();
    this.timer = setInterval(() => this.refresh(), 30_000);
  }

  disconnectedCallback() {
    clearInterval(this.timer);
  }

  async refresh() {
    const query = new URLSearchParams({
      f_status: "in:open,pending",
      sortBy: "due_at",
      order: "asc",
      per_page: "10",
    });
    try {
      const response = await fetch(`${this.getAttribute("api") ?? "/api"}/dynamic/tickets?${query}`, {
        headers: { Authorization: `Bearer ${this.getAttribute("token") ?? ""}` },
      });
      const body = await response.json();
      if (!body.success) throw new Error(body.message);
      this.render(body.data, body.meta.total);
    } catch (error) {
      this.shadowRoot.textContent = `Tickets cannot be shown: ${error.message}`;
    }
  }

  render(tickets, total) {
    const heading = document.createElement("h3");
    heading.textContent = `${total} unfinished`;
    const list = document.createElement("ul");
    for (const ticket of tickets) {
      const item = document.createElement("li");
      const due = ticket.due_at ? ` — due ${new Date(ticket.due_at).toLocaleString()}` : "";
      item.textContent = `[${ticket.priority}] ${ticket.subject}${due}`;
      list.append(item);
    }
    this.shadowRoot.replaceChildren(heading, list);
  }
}

if (!customElements.get("metacore-tickets")) customElements.define("metacore-tickets", MetacoreTickets);
