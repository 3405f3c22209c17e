--[[
What every page of the paper says beside its text: the notice that simulated data must carry (`notice`
in the paper's head), and who made the page. Quarto and pandoc run this alike.
]]

local AMBER = 'rgb("#92400e")'

local function add(meta, key, format, text)
  local there = meta[key]
  local list = pandoc.utils.type(there) == "List" and there or pandoc.List { there }
  list:insert(pandoc.MetaBlocks { pandoc.RawBlock(format, text) })
  meta[key] = list
end

local function notice(meta)
  local text = pandoc.utils.stringify(meta.notice or "")
  if text == "" then
    return
  elseif FORMAT:match("^html") then
    local escaped = text:gsub("[&<>]", { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;" })
    add(meta, "include-before", "html", '<div class="notice" role="note">' .. escaped .. "</div>")
  elseif FORMAT == "typst" then
    local line = string.format("text(size: 8.5pt, fill: %s, %q)", AMBER, text)
    add(meta, "header-includes", "typst", "#set page(header: align(center, " .. line .. "))")
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

function Pandoc(doc)
  notice(doc.meta)
  doc.blocks:insert(pandoc.Div(pandoc.Para(colophon()), { class = "colophon" }))
  return doc
end
