--[[
What every page of the paper has beside its text: the notice that simulated data must carry (`notice`
in the paper's head), the way to the contents, a link at every heading, figures that open, a
description, and who made the page. Quarto and pandoc run this alike.
]]

local AMBER = 'rgb("#92400e")'
local HTML = FORMAT:match("^html") ~= nil

local function add(meta, key, format, text)
  local there = meta[key]
  local list = pandoc.utils.type(there) == "List" and there or pandoc.List { there }
  list:insert(pandoc.MetaBlocks { pandoc.RawBlock(format, text) })
  meta[key] = list
end

local function escaped(text)
  return (text:gsub("[&<>]", { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;" }))
end

-- Where there is little room, the notice is its first words until it is opened (paper.css).
local function bar(text)
  local parts = { '<div class="bar">' }
  if text ~= "" then
    local first = text:match("^[^:.]*")
    table.insert(parts, '<div class="notice" role="note"><details><summary>' .. escaped(first))
    table.insert(parts, '<span class="rest">' .. escaped(text:sub(#first + 1)) .. "</span>")
    table.insert(parts, "</summary></details></div>")
  end
  table.insert(parts, '<a class="to-contents" href="#TOC">Contents</a></div>')
  return table.concat(parts)
end

local function notice(meta)
  local text = pandoc.utils.stringify(meta.notice or "")
  if HTML then
    add(meta, "include-before", "html", bar(text))
  elseif FORMAT == "typst" and text ~= "" then
    local line = string.format("text(size: 8.5pt, fill: %s, %q)", AMBER, text)
    add(meta, "header-includes", "typst", "#set page(header: align(center, " .. line .. "))")
  end
end

-- For those who find the page in a list: what its abstract begins with.
local function description(meta)
  if HTML and meta.abstract and not meta.description then
    local text = pandoc.utils.stringify(meta.abstract)
    local first = text:sub(1, 300)
    meta.description = #text > 300 and first:gsub("%s+%S*$", "…") or text
  end
end

local function colophon()
  if quarto then
    return pandoc.Inlines("Rendered by Quarto " .. tostring(quarto.version) .. ".")
  end
  local words = pandoc.Inlines("Rendered by pandoc " .. tostring(PANDOC_VERSION))
  if FORMAT == "typst" then
    words:extend(pandoc.Inlines(" and typst "))
    words:insert(pandoc.RawInline("typst", "#str(sys.version)"))
  end
  words:insert(pandoc.Str("."))
  return words
end

-- A figure stands in a popover that is always shown, and fills the window when it is opened; its text is text.
local function enlarged(image)
  if not HTML then
    return nil
  end
  if image.src:match("%.svg$") then
    image.classes:insert("inline-svg")
  end
  local name = "large-" .. pandoc.utils.sha1(image.src):sub(1, 8)
  local button = string.format(
    '<button type="button" popovertarget="%s" aria-label="Enlarge the figure, or close it"></button></span>',
    name
  )
  return pandoc.Inlines {
    pandoc.RawInline("html", string.format('<span class="plate" id="%s" popover="auto">', name)),
    image,
    pandoc.RawInline("html", button),
  }
end

local function anchored(header)
  if HTML and header.identifier ~= "" then
    local attributes = { class = "anchor", ["aria-label"] = "Link to this section" }
    header.content:insert(pandoc.Link({}, "#" .. header.identifier, "", attributes))
    return header
  end
end

local function pages(doc)
  notice(doc.meta)
  description(doc.meta)
  if HTML then
    -- Closes the contents where they lie over the text: a place that is nowhere.
    doc.blocks:insert(1, pandoc.RawBlock("html", '<a class="close" href="#_">Close</a>'))
  end
  doc.blocks:insert(pandoc.Div(pandoc.Para(colophon()), { class = "colophon" }))
  return doc
end

return { { Image = enlarged, Header = anchored }, { Pandoc = pages } }
