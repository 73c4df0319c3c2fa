"""The vocabulary of the synthetic patents and techniques: what can be abated, how, where, and with which twist.

Each value of the four attributes (pollutant, principle, host process, feature) is worded twice, without a content word
in common: `section` as an environmental permit or BREF writer would, `patent` as a claim drafter would. A test holds
the two sides apart. Alternatives are separated by `|`. In sentences `{w}` (section side) and `{s}` (patent side) stand
for the waste gas, the waste water or the solid that is treated. All of it was written for this project.
"""

from __future__ import annotations

from dataclasses import dataclass


def _split(text: str) -> tuple[str, ...]:
    """`"a | b"` -> `("a", "b")`, line breaks and runs of blanks folded."""
    return tuple(" ".join(part.split()) for part in text.split("|") if part.strip())


@dataclass(frozen=True)
class Value:
    """One value of an attribute, worded for both sides. Phrases fit after a preposition; `how`, `steps` are longer."""

    section: tuple[str, ...]
    """Noun phrases of the section side."""
    patent: tuple[str, ...]
    """Noun phrases of the patent side (`feature`: finite clauses that fit after "wherein")."""
    how: tuple[str, ...] = ()
    """Principles and features: whole sentences of the section side."""
    steps: tuple[str, ...] = ()
    """Principles: gerund clauses of the patent side."""
    details: tuple[str, ...] = ()
    """Principles: finite clauses for dependent claims."""
    codes: tuple[str, ...] = ()
    """CPC symbols that a patent with this value may carry, the most fitting first."""
    media: tuple[str, ...] = ()
    """gas, water or solid: one for a pollutant, one or two for a principle."""
    links: tuple[str, ...] = ()
    """Principles and hosts: names of the pollutants that they can treat or that they emit."""


def _pollutant(medium: str, codes: str, section: str, patent: str) -> Value:
    return Value(section=_split(section), patent=_split(patent), codes=_split(codes), media=(medium,))


def _principle(
    media: str, codes: str, treats: str, names: str, how: str, devices: str, steps: str, details: str
) -> Value:
    return Value(
        section=_split(names),
        patent=_split(devices),
        how=_split(how),
        steps=_split(steps),
        details=_split(details),
        codes=_split(codes),
        media=tuple(media.split()),
        links=tuple(treats.split()),
    )


def _host(emits: str, section: str, patent: str) -> Value:
    return Value(section=_split(section), patent=_split(patent), links=tuple(emits.split()))


def _feature(codes: str, how: str, clauses: str) -> Value:
    return Value(section=(), patent=_split(clauses), how=_split(how), codes=_split(codes))


POLLUTANTS: dict[str, Value] = {
    "nox": _pollutant(
        "gas",
        "B01D53/56|B01D2257/404",
        "nitrogen oxides|NOX|NO and NO2|oxides of nitrogen|NOX (expressed as NO2)|NO + NO2",
        """nitric monoxide and its brown peroxide|nitrous fumes|smog-forming nitrosyl species
        |the reddish toxic vapors of hot-flame air fixation|fumes calling for denitration
        |nitric and nitrous vapors|the ozone-forming fumes of fixed-N fuel|nitrogenous acid fumes""",
    ),
    "so2": _pollutant(
        "gas",
        "B01D53/50|B01D2257/302",
        "sulphur dioxide|SO2|sulphur oxides|SOX|SO2 and SO3|oxidised sulphur",
        """sulfurous anhydride|acid vapors of burnt brimstone|constituents calling for desulfurization
        |the pungent product of sulfur-bearing fuel|sulfite-forming vapors|gaseous sulfurous acid
        |thionic acid vapors|the choking acid constituent that sulfides yield on roasting""",
    ),
    "dust": _pollutant(
        "gas",
        "B01D46/00|B03C3/00",
        "dust|particulate matter|PM10 and PM2.5|total suspended particulates|fine dust|channelled dust",
        """entrained fines|airborne solid specks|fly-off powder|soot and carried-over grit
        |solids in suspension that would leave as a visible plume|micron-sized solids|powdery carry-over
        |smoke-borne grains""",
    ),
    "hg": _pollutant(
        "gas",
        "B01D53/64|B01D2257/602",
        "mercury|Hg|gaseous mercury|elemental and oxidised Hg|total mercury|Hg and its compounds",
        """quicksilver vapor|volatile mercuric chloride|the liquid-metal vapor|mercurous and mercuric species
        |amalgam-forming metal vapor|a neurotoxic volatile metal in the zero-valent state|cinnabar-derived vapors
        |quicksilver in atomic form""",
    ),
    "voc": _pollutant(
        "gas",
        "B01D53/44|B01D2257/708",
        "volatile organic compounds|VOC|TVOC|organic solvents|NMVOC|organic carbon (TOC) in the waste gas",
        """solvent vapors|evaporated hydrocarbons|flammable vapors such as toluene and acetone
        |low-boiling thinner fumes|vaporous C-H species|aromatic and ketonic vapors
        |fumes given off by drying lacquer and resin|vapors of benzene, xylene and esters""",
    ),
    "nh3": _pollutant(
        "gas",
        "B01D53/58|B01D2257/406",
        "ammonia|NH3|ammonia emissions to air|gaseous NH3|ammonia slip|NH3-N in exhaust air",
        """the alkaline vapor set free from urea|volatilized ammoniacal fumes|the lightest amine-type alkaline species
        |pungent alkaline vapor|ammoniacal vapors|the hydride of azote|eye-stinging volatile alkali
        |volatile alkali from decaying protein""",
    ),
    "dioxin": _pollutant(
        "gas",
        "B01D53/70|B01D2257/2064",
        "dioxins|PCDD/F|dioxins and furans|PCDD/F (I-TEQ)|polychlorinated dibenzodioxins|dioxin-like PCB",
        """chlorinated tricyclic aromatics|persistent halogenated aromatics born in the cooling zone
        |supertoxic chloro-aromatic traces|chlorine-carrying ring ethers
        |highly toxic aromatic ethers of de-novo synthesis
        |the halogenated ring systems known from Seveso|polyhalogenated aromatic traces
        |bioaccumulating chloro-aromatic ethers""",
    ),
    "hf": _pollutant(
        "gas",
        "B01D53/68|B01D2257/2047",
        "hydrogen fluoride|HF|gaseous fluorides|fluorides expressed as HF|HF and SiF4|hydrogen fluoride emissions",
        """hydrofluoric vapor|fluorine-bearing acid vapor|glass-etching acid fumes|fluoric fumes of melting salt baths
        |vapors that attack silica|hydrofluoric acid mist|the volatile fluorine released from clay or cryolite
        |etching fumes bearing fluorine""",
    ),
    "hcl": _pollutant(
        "gas",
        "B01D53/68|B01D2257/2045",
        "hydrogen chloride|HCl|gaseous chlorides|chlorides expressed as HCl|HCl vapours|inorganic chlorides",
        """muriatic acid fumes|hydrochloric mist|the halogen acid set free from burning PVC|chlorhydric vapors
        |spirits-of-salt fumes|hydrochloric acid fumes|the corrosive halogen acid of pickling baths
        |muriatic vapor""",
    ),
    "co2": _pollutant(
        "gas",
        "B01D53/62|B01D2257/504|Y02C20/40",
        "carbon dioxide|CO2|greenhouse gas emissions|fossil CO2|direct CO2|climate-relevant carbon dioxide",
        """the planet-warming end product of burning|carbonic anhydride|carbonic acid vapor for underground storage
        |the fully oxidized form of coal and coke|the global-warming product of lime burning
        |carbonic acid to be sequestered
        |the dry-ice-forming component|the gaseous product of full burn-out""",
    ),
    "h2s": _pollutant(
        "gas",
        "B01D53/52|B01D2257/304",
        "hydrogen sulphide|H2S|reduced sulphur compounds|TRS|H2S and mercaptans|total reduced sulphur",
        """sulfhydric vapor|the rotten-egg poison|sulfhydryl-bearing sour fumes|sour vapor of sulfhydric acid
        |hydrosulfuric vapor|the deadly foul hydride of sulfur|thiols and sulfhydric acid|sour constituents""",
    ),
    "odour": _pollutant(
        "gas",
        "B01D53/38|B01D2257/90",
        "odour|odour emissions|odorous compounds|odour nuisance|odour units (OUE/m3)|diffuse odour",
        """malodor|foul-smelling air|stench|smells that trouble neighboring dwellings|a nauseating smell
        |malodorous fatty acids and skatole|scents perceived as unpleasant|reeking vapors""",
    ),
    "n2o": _pollutant(
        "gas",
        "B01D53/56|B01D2257/402|Y02C20/10",
        "nitrous oxide|N2O|N2O emissions|nitrous oxide (global warming potential 265)|residual N2O|process N2O",
        """laughing gas|the anesthetic dinitrogen monoxide|dinitrogen monoxide|long-lived laughing gas
        |the inert sweet-smelling by-product of azote oxidation|dinitrogen monoxide that harms the stratosphere
        |dentist's gas formed as a by-product|the whipped-cream propellant formed on hot gauzes""",
    ),
    "phosphorus": _pollutant(
        "water",
        "C02F2101/105|C02F1/58",
        "phosphorus|total phosphorus|TP|orthophosphate|P-tot|phosphorus compounds",
        """phosphates|the eutrophying nutrient of detergents|phosphatic nutrients|algae-feeding phosphate ions
        |dissolved phosphates|phosphate-laden nutrients that make lakes bloom|phosphatic salts|phosphoric ions""",
    ),
    "nitrate": _pollutant(
        "water",
        "C02F2101/163|C02F3/30",
        "nitrate|NO3-N|nitrate nitrogen|total oxidised nitrogen|nitrate and nitrite|TN as NO3",
        """saltpeter ions|dissolved saltpeter|the anion of nitric acid|nitric anions|nitric salts leached into rivers
        |niter|the fertilizer anion that causes blue-baby disease|dissolved niter""",
    ),
    "nh4": _pollutant(
        "water",
        "C02F2101/16|C02F3/02",
        "ammonium|NH4-N|ammoniacal nitrogen|ammonium nitrogen|total Kjeldahl nitrogen|TKN",
        """dissolved volatile alkali|hartshorn salts|fish-toxic alkaline ions of decomposed urea|ionized ammonia
        |urea breakdown products|dissolved ammonia|ionized ammonia of protein decay|ammonia kept in solution""",
    ),
    "bod": _pollutant(
        "water",
        "C02F3/28|C02F2103/32",
        "COD|BOD5|chemical oxygen demand|biochemical oxygen demand|TOC load|biodegradable organic load",
        """O2-depleting dissolved matter|starch, sugar and protein residues|putrescible substances
        |soluble foodstuff remains|matter that rots and suffocates fish|fermentable dissolved carbon
        |carbohydrates and fats gone to the drain|putrescible carbonaceous matter""",
    ),
    "metals": _pollutant(
        "water",
        "C02F2101/20|C02F1/62",
        "heavy metals|Cu, Ni, Zn and Pb|dissolved heavy metals|metal emissions to water|total Ni and Zn|toxic metals",
        """copper, nickel and zinc ions|plumbous and cadmic cations|multivalent cations|cations of lead and cadmium
        |poisonous cations stemming from alloys|zinc and copper salts|metallic cations|nickelous and cupric salts""",
    ),
    "cyanide": _pollutant(
        "water",
        "C02F2101/18|C02F1/58",
        "cyanide|free cyanide|CN-|easily released cyanide|complexed cyanides|total CN",
        """prussic salts|prussic acid residues|prussiates|ferrocyanide complexes|carbon-azote triple-bond anions
        |prussiate ions that block respiration|hydrocyanic acid in solution|prussian-blue-forming anions""",
    ),
    "crvi": _pollutant(
        "water",
        "C02F2101/22|C02F1/70",
        "hexavalent chromium|Cr(VI)|chromium VI|Cr6+|chromium(VI) compounds|total and hexavalent chromium",
        """chromates|chromic acid rinse carry-over|dichromate ions|carcinogenic chromates|yellow chromate anions
        |bichromates|chromic acid|orange dichromate salts""",
    ),
    "oil": _pollutant(
        "water",
        "C02F2101/32|C02F1/40",
        "oil and grease|hydrocarbon oil index|HOI|free and emulsified oil|mineral oil|oils and greases",
        """fatty droplets|lubricants in emulsion|tallow and lubricant films|an iridescent floating film
        |petroleum droplets|lipids and lubricants|fatty matter in emulsion|greasy petroleum droplets""",
    ),
    "colour": _pollutant(
        "water",
        "C02F2101/308|C02F1/72",
        "colour|residual colour|spectral absorption coefficient|reactive dyes|dyestuffs|coloured dye residues",
        """azo chromophores|unfixed tints|pigmented organic molecules|spent tinting agents
        |chromophoric substances|indigoid and azo pigments|an intense unnatural tint|hydrolyzed azo tints""",
    ),
    "aox": _pollutant(
        "water",
        "C02F2101/36|C02F1/28",
        "AOX|adsorbable organic halogens|chlorinated organics|EOX and AOX|organohalogens|halogenated solvents",
        """chloroform and trichloroethylene|chlorophenols|chloro-substituted hydrocarbons|perchloroethylene
        |bleach-plant chlorophenols|chlorohydrocarbons that resist decay|dichloromethane|chlorolignins""",
    ),
    "fluoride": _pollutant(
        "water",
        "C02F2101/14|C02F1/58",
        "fluoride|dissolved fluoride|F-|total fluoride|fluorides in water|fluoride ions",
        """fluorine anions|fluosilicic acid|etchant fluorine|spent etchant anions|fluorine in solution
        |hexafluorosilicate|the fluorine carried by rinse after etching|fluosilicic anions""",
    ),
    "tss": _pollutant(
        "water",
        "C02F2001/007|C02F1/52",
        "suspended solids|TSS|total suspended solids|settleable solids|suspended matter|SS",
        """turbidity|fibers and silt|floating fines and fibers|undissolved flakes|cloudiness-causing flakes
        |silt and undissolved crumbs|turbid fines|slime and fiber debris""",
    ),
    "soil_hc": _pollutant(
        "solid",
        "B09C1/00",
        "contaminated soil|PAH-contaminated soil|polluted excavated soil|soil contaminated with hydrocarbons",
        """tar-soaked earth|earth impregnated with creosote|fouled ground from an abandoned works
        |diesel-soaked earth|polycyclic tar residues held in dug-up earth|creosote-fouled ground""",
    ),
    "ash": _pollutant(
        "solid",
        "B09B3/00",
        "leachable residues|fly ash|bottom ash|APC residues|ash with leachable metals|hazardous ashes",
        """powdery cinder whose salts dissolve in rain|elutable cinder|slag and cinder|toxic furnace cinder
        |captured furnace powder from which lead would be eluted|soluble-salt-bearing cinder""",
    ),
    "sludge": _pollutant(
        "solid",
        "C02F11/00",
        "excess sludge|sewage sludge|surplus sludge|sludge for disposal|waste water treatment sludge|biosludge",
        """watery slurry of spent biomass|thickened bottoms of a settling basin|wet bacterial residue
        |pasty clarification residue|voluminous spent biomass|slimy clarifier underflow""",
    ),
}


PRINCIPLES: dict[str, Value] = {
    "catalytic": _principle(
        "gas",
        "B01D53/86|B01D53/8628|B01J23/22|B01J35/56",
        "nox n2o voc dioxin odour nh3 h2s",
        "catalytic conversion|a catalytic reactor|end-of-pipe catalyst treatment|catalytic abatement|a catalyst system",
        """{w} passes a reactor in which catalyst modules are arranged in layers.
        |The catalyst lowers the activation energy, so the conversion proceeds at moderate temperature.
        |Catalyst lifetime depends on poisoning and on the space velocity for which the reactor was designed.
        |Catalytic treatment destroys the substance instead of transferring it to another medium.
        |Spent catalyst is returned to the manufacturer.""",
        """a honeycomb monolith carrying vanadia and titania|a ceramic brick whose channels are coated with noble metal
        |a fixed charge of platinum-bearing pellets|a corrugated support washcoated with transition-metal oxides
        |a contact mass of copper-exchanged zeolite|extruded elements having an active oxide surface
        |a palladium-coated metal foil roll|a cellular body impregnated with active oxides""",
        """leading {s} through coated channels so that the unwanted species react at the active surface
        |contacting {s} with an active oxide mass until the species are transformed into harmless molecules
        |making {s} sweep across a noble-metal surface which promotes the reaction without being consumed
        |bringing {s} onto a washcoated support at which transformation is accelerated
        |guiding {s} along impregnated cell walls""",
        """the active coating comprises tungsten oxide on anatase
        |the cell density of the monolith is between 20 and 100 cells per square centimeter
        |the washcoat has a thickness of from 30 to 200 micrometers
        |the active mass is freed of deposits by a pulse of superheated steam
        |the noble metal content is below 2 grams per liter of support""",
    ),
    "sncr": _principle(
        "gas",
        "B01D53/56|F23J15/003|F23J7/00",
        "nox n2o",
        "selective non-catalytic reduction|SNCR|urea injection into the furnace|non-catalytic reagent injection",
        """A reagent such as urea is injected into the combustion chamber within a window of 850-1050 °C.
        |Non-catalytic reduction needs no reactor downstream of the boiler.
        |Reagent injection takes place on several levels so that the temperature window is met at each load.
        |SNCR efficiency is governed by residence time and by mixing of the reagent.""",
        """lances spraying carbamide solution in the hot throat|nozzles that atomize aqueous carbamide above the flame
        |a ring of spray guns dosing an amine liquid in the post-flame zone
        |wall-mounted atomizers releasing amine radicals at red heat""",
        """atomizing an amine liquid in {s} while it is still glowing hot so that radicals recombine spontaneously
        |spraying carbamide solution crosswise in {s} at red heat and without any contact mass
        |dosing an amine liquid at a point where {s} is between 1150 and 1320 kelvin
        |releasing amine radicals in the post-flame zone traversed by {s}""",
        """the droplets have a Sauter diameter of 50 to 400 micrometers
        |the lances are retractable and are cooled by a jacket
        |the amine liquid is diluted to 10 % by weight before atomizing
        |the spraying plane is changed over when the throat becomes hotter""",
    ),
    "staging": _principle(
        "gas",
        "F23C6/04|F23C9/00|F23D14/00",
        "nox n2o voc dioxin",
        "primary measures|low-emission burners|staged combustion|combustion optimisation|air and fuel staging",
        """Primary measures act on the formation of the substance rather than on its removal.
        |Staged combustion splits the air supply so that peak temperatures at the burner are avoided.
        |Optimised burners with staged fuel are available for new installations and for revamps.
        |Combustion optimisation requires good control of excess oxygen.""",
        """a two-zone hearth with an under-stoichiometric first zone|nested swirl nozzles giving a long cool flame
        |an over-fire port set above a rich flame|a firing head that draws spent gases back to the flame root
        |a hearth divided in a rich zone and a lean zone""",
        """dividing the oxidant so that a rich flame is followed by a lean burn-out zone yielding {s}
        |drawing part of {s} back to the flame root, whereby the flame is made longer and cooler
        |starving the flame root of oxidant and completing burn-out of {s} above an over-fire port
        |firing under-stoichiometrically first, so that {s} is formed clean at the outset""",
        """the first zone is run at an oxidant ratio of 0.7 to 0.9
        |the over-fire port lies 1.5 to 4 meters above the flame
        |swirl vanes are adjustable during firing
        |from 8 to 25 % of the spent gases are drawn back""",
    ),
    "thermal_ox": _principle(
        "gas",
        "F23G7/06|F23G7/068|B01D53/72",
        "voc odour h2s nh3 dioxin",
        "regenerative thermal oxidation|thermal oxidisers|an afterburner|RTO|incineration of the waste gas",
        """Thermal oxidisers hold {w} above 800 °C for one second or more.
        |An afterburner is fired with natural gas unless the calorific content allows autothermal operation.
        |In regenerative oxidisers ceramic masses are alternately charged and discharged.
        |Incineration reaches destruction efficiencies of 98-99.9 %.""",
        """a flame tube between two stoneware beds|a burn-off chamber lined with refractory
        |twin beds of saddle-shaped stoneware that take turns|a refractory vessel with a pilot flame
        |a burn-off kettle with switch-over flaps|a flame cage surrounded by packed stoneware""",
        """burning {s} off at a glow and reversing flow through packed stoneware
        |exposing {s} to an open flame until nothing combustible remains
        |igniting {s} within a refractory vessel and keeping it there until burn-out is complete
        |heating {s} past its self-ignition point by hot stoneware""",
        """the flow is reversed every 60 to 180 seconds
        |a purge keeps unburnt remnants from escaping at change-over
        |the pilot flame is throttled once the feed sustains its own burning
        |the stoneware consists of saddles of 25 millimeters""",
    ),
    "wet_scrub": _principle(
        "gas",
        "B01D53/78|B01D53/14|B01D47/06",
        "so2 hf hcl nh3 h2s dust odour hg co2 nox",
        "wet scrubbing|a wet scrubber|absorption in a scrubbing liquor|scrubbing|chemical absorption",
        """{w} is scrubbed counter-currently; absorption is followed by a bleed of the scrubbing liquor.
        |Wet scrubbers cope with fluctuating inlet concentrations.
        |A scrubber with acidity control and a demister is standard; the liquor is recirculated.
        |The liquid-to-gas ratio determines the absorption efficiency.""",
        """a spray tower fed with lye|a packed washing column irrigated with milk of lime
        |a venturi throat flooded with washing fluid|a bubble-tray washer charged with a basic solution
        |a trickled tower filled with rings|an irrigated washing column with a droplet catcher
        |a cross-flow washer having spray banners""",
        """washing {s} with descending droplets of a reactive solution that takes up the unwanted constituent
        |bubbling {s} across flooded trays so that the constituent dissolves
        |making {s} rise against trickling lye and drawing off the laden fluid
        |showering {s} with milk of lime and catching the droplets thereafter
        |wetting {s} intensely in a flooded throat""",
        """the washing fluid is held at a pH of 6 to 9
        |the column contains plastic rings with a free cross-section of 90 %
        |the droplet catcher consists of wavy blades
        |the laden fluid is drawn off at the sump and settled
        |the trays are flooded to a height of 40 millimeters""",
    ),
    "dry_sorb": _principle(
        "gas",
        "B01D53/83|B01D53/81|B01D53/10",
        "so2 hf hcl hg dioxin",
        "dry sorption|dry sorbent injection|sorbent dosing upstream of the filter|semi-dry treatment|DSI",
        """A dry sorbent is injected upstream of the existing filter; semi-dry variants add some water.
        |Sorbent consumption rises steeply with the required efficiency.
        |Dry sorption produces a residue but no waste water.
        |Injection of the sorbent takes place in the duct or in a sorption reactor.""",
        """a blower strewing hydrated lime flour along the conduit|a screw feeder strewing bicarbonate flour
        |an entrainment tube loaded with slaked lime powder|a fluidized riser of powdered alkali
        |a strewing device for trona flour or powdered coke""",
        """strewing alkaline flour in {s} and letting the flour react while it is carried along
        |entraining powdered slaked lime by {s} and subsequently taking the reacted powder out
        |mixing {s} with finely ground bicarbonate which decomposes and swells
        |conveying {s} up a riser together with circulating powder""",
        """the flour has a specific surface above 35 square meters per gram
        |reacted powder is returned to the riser up to forty times
        |the bicarbonate is ground immediately before strewing
        |the powder stays entrained for 2 to 6 seconds""",
    ),
    "adsorption": _principle(
        "gas water",
        "B01D53/04|B01J20/20|C02F1/28",
        "hg dioxin voc h2s odour co2 aox colour metals bod",
        "adsorption|activated carbon adsorption|adsorbers|GAC treatment|fixed-bed adsorption",
        """Adsorbers are filled with activated carbon and replaced when breakthrough is detected.
        |Adsorption is particularly efficient at low concentrations; {w} should be free of solids.
        |Saturated carbon is reactivated externally or disposed of.
        |Two adsorbers in lead-lag operation make full use of the adsorption capacity.""",
        """a packed charge of porous char|a canister of granular charcoal|a drum of microporous zeolite beads
        |a layer of lignite coke grains|a vessel packed with macroporous polymer beads|a moving charge of char granules
        |a cartridge of sulfur-doped charcoal""",
        """passing {s} through a layer of porous grains whose inner surface retains the molecules
        |letting {s} percolate through charcoal until the grains are exhausted
        |retaining the molecules of interest in micropores while {s} flows on
        |contacting {s} with sinking char granules that are loaded gradually""",
        """the grains have an inner surface of 600 to 1400 square meters per gram
        |the charcoal is doped with 5 to 15 % elemental additive
        |exhausted grains are driven out by steam
        |the layer is 0.4 to 2 meters deep""",
    ),
    "condensation": _principle(
        "gas",
        "B01D53/00|B01D5/00|B01D53/002",
        "voc hg odour nh3",
        "condensation|cryogenic condensation|condensers|refrigerated condensation|a condenser",
        """{w} is cooled below the dew point in a condenser; the condensate is collected.
        |Cryogenic condensation with liquefied nitrogen achieves the lowest residual concentrations.
        |Condensers are well suited to small flows with a high loading.
        |Icing limits the service time of refrigerated condensers.""",
        """a chilled tube bundle with a drip tray|a deep-cold plate exchanger
        |a brine-chilled coil on which liquid drips off
        |a finned cold trap|a shell with sub-zero brine tubes|a frost exchanger with a drip tray""",
        """chilling {s} until droplets separate on cold walls and run off as a liquid
        |bringing {s} against sub-zero surfaces and catching what drips off
        |withdrawing heat from {s} so that vapors turn liquid or freeze out
        |expanding {s} to deep cold and draining the fraction made fluid""",
        """the brine has a temperature between -40 and -10 degrees
        |frost is melted off every 4 to 12 hours
        |the drip tray is emptied by a siphon
        |droplets are held back by a knitted pad""",
    ),
    "biofilter": _principle(
        "gas",
        "B01D53/84|B01D53/85|B01D2251/95",
        "odour voc h2s nh3",
        "biofiltration|a biofilter|biological waste gas treatment|bioscrubbers and biofilters|a biotrickling filter",
        """A biofilter consists of organic material kept moist; microorganisms degrade the compounds.
        |Biofiltration has low operating costs provided that humidity is maintained.
        |The biological treatment requires temperatures below 40 °C.
        |Biofilter material is replaced every three to five years.""",
        """a heap of root wood and heather inhabited by microbes|a damp compost layer above a slotted floor
        |a sprinkled bed of lava stone grown over with bacteria|trays of bark mulch colonized by germs
        |a porous foam settled by bacteria and fungi""",
        """blowing {s} upward through damp mulch in which living germs feed on the substances
        |letting bacteria settled on lava stone consume what {s} carries
        |percolating {s} through compost whose germs metabolize the substances
        |feeding {s} to a colonized heap that is sprinkled from above""",
        """the mulch is sprinkled for two minutes in every hour
        |the slotted floor has a free area of at least 30 %
        |nutrient salts are added to the sprinkling liquid
        |the heap is between 0.8 and 1.5 meters high""",
    ),
    "esp": _principle(
        "gas",
        "B03C3/00|B03C3/41|B03C3/74",
        "dust hg dioxin",
        "electrostatic precipitation|an electrostatic precipitator|ESP|multi-field precipitators|wet or dry ESP",
        """Precipitators with three or more fields are in use; rapping is adapted to resistivity.
        |The electrostatic precipitator has a low energy demand per cubic metre.
        |In the ESP the particles are charged and migrate to the collecting electrodes.
        |The precipitator is tripped when the CO content is too high.""",
        """spiked wires held at elevated voltage between grounded plates|a corona chamber with hammer-cleaned plates
        |a grid of discharge wires|a tube bundle with axial corona needles|plates facing wires at sixty kilovolts
        |an ionizing chamber with swept plates""",
        """ionizing {s} by corona needles so that what it carries is drawn to grounded plates
        |applying an elevated voltage across {s} and knocking the deposited layer off the plates
        |driving charge carriers from spiked wires through {s}
        |exposing {s} to a corona and sweeping the grounded plates""",
        """the voltage is pulsed at 50 to 400 pulses per second
        |the hammers strike the plates in a staggered sequence
        |the plates are spaced 300 to 450 millimeters apart
        |the needles protrude 5 millimeters from the wires""",
    ),
    "fabric": _principle(
        "gas",
        "B01D46/02|B01D46/04|B01D39/08",
        "dust dioxin hg hf",
        "fabric filters|bag filters|a baghouse|filtration in bag filters|a fabric filter",
        """Fabric filters with pulse-jet cleaning reach less than 5 mg/Nm3 over the whole load range.
        |Bag material is chosen according to temperature and humidity.
        |A baghouse is insensitive to the electrical properties of the particles.
        |Leak detection permits single compartments of the filter to be isolated.""",
        """hanging hoses of needle felt|woven glass sleeves stretched over wire cages|pleated cartridges of felted fiber
        |tubular textile sleeves blown clean by air bursts|a row of felted hoses on a cell plate
        |sleeves of membrane-laminated cloth""",
        """forcing {s} through felted hoses and blowing off the cake by short air bursts
        |sucking {s} from outside to inside of textile sleeves on wire cages
        |building up a cake on cloth traversed by {s} and shaking the cake off
        |pressing {s} through laminated cloth""",
        """the air bursts last less than 200 milliseconds
        |the cloth is laminated with expanded fluoropolymer
        |the hoses are between 4 and 9 meters long
        |the wire cages have sixteen longitudinal rods""",
    ),
    "cyclone": _principle(
        "gas water",
        "B04C5/00|B04C5/04|B04C9/00",
        "dust tss oil",
        "cyclones|centrifugal separation|a multicyclone|cyclone pre-separation|hydrocyclones",
        """Cyclones are robust, have no moving parts and are mainly used for coarse particles.
        |Centrifugal separators are usually followed by a finer technique.
        |A multicyclone combines many small cyclones in parallel.
        |The separation efficiency of cyclones falls with decreasing particle size.""",
        """a conical whirl chamber with a tangential inlet|a spin tube with a vortex finder
        |a cone-bottomed vortex vessel
        |swirl cells arranged around a common hopper|a funnel in which a vortex is set up""",
        """setting {s} spinning in a cone so that heavier matter is flung to the wall
        |introducing {s} tangentially and taking the cleaned core out through a vortex finder
        |whirling {s} in a funnel from whose apex rejects are let off
        |imparting a swirl to {s} and collecting what slides down the wall""",
        """the cone angle is between 8 and 20 degrees
        |the vortex finder projects by one third of the height
        |the apex opening is adjustable
        |the inlet velocity is from 12 to 24 meters per second""",
    ),
    "membrane": _principle(
        "gas water",
        "B01D61/02|B01D53/22|C02F1/44",
        "co2 voc nh3 metals bod colour nitrate fluoride aox oil tss",
        "membrane separation|membrane techniques|a membrane unit|reverse osmosis or gas permeation|membrane modules",
        """{w} is separated into permeate and retentate by membrane modules.
        |Membrane fouling is controlled by cleaning in place.
        |Membrane techniques need a pressure difference, which dominates the electricity demand.
        |The lifetime of membrane modules is three to seven years.""",
        """a bundle of semi-permeable hollow fibers|a spiral-wound skin of polyamide|a thin selective polymer skin
        |capillaries with perm-selective walls|a stack of flat selective foils|a ceramic tube with nanoporous skin""",
        """pushing {s} along a selective skin through which only one component migrates
        |feeding {s} at elevated head to hollow fibers and drawing off what diffuses across
        |splitting {s} at perm-selective walls in an enriched and a depleted portion
        |pumping {s} across nanoporous foils and holding back larger molecules""",
        """the selective skin is thinner than 1 micrometer
        |the hollow fibers are potted in epoxy resin
        |a backflush is released every 20 to 60 minutes
        |the enriched portion is fed to a second bundle""",
    ),
    "plasma": _principle(
        "gas",
        "B01D53/32|B01D53/007|H05H1/24",
        "odour voc nox h2s n2o",
        "non-thermal plasma|UV oxidation|photo-oxidation|cold plasma treatment|plasma treatment|UV and plasma units",
        """Non-thermal plasma produces reactive oxygen species; {w} itself remains cold.
        |UV lamps have to be replaced once a year; photo-oxidation needs little space.
        |Plasma treatment is often combined with a downstream polishing step.
        |The technique consumes 1-5 Wh of electricity per cubic metre.""",
        """a dielectric barrier with microdischarges|a row of quartz tubes emitting at 185 nanometers
        |a pulsed streamer gap|electrodes with a glass barrier fed by a high-frequency generator
        |a chamber irradiated by short-wave emitters""",
        """subjecting {s} to microdischarges that create radicals
        |irradiating {s} with short-wave light which splits the molecules
        |firing nanosecond streamers across {s}
        |exposing {s} to energetic electrons at ambient warmth so that bonds are cracked""",
        """the generator runs at 1 to 30 kilohertz
        |the quartz tubes are wiped automatically
        |the glass barrier is 2 millimeters thick
        |leftover radicals are quenched on manganese dioxide""",
    ),
    "precipitation": _principle(
        "water",
        "C02F1/52|C02F1/56|C02F1/62",
        "phosphorus metals fluoride crvi colour tss",
        """chemical precipitation|precipitation|coagulation and flocculation|precipitation with iron or lime
        |physico-chemical treatment""",
        """Precipitation converts the dissolved substance into an insoluble compound that is settled.
        |Precipitants such as iron or lime are metered at a controlled pH; flocculation comes next.
        |Physico-chemical treatment generates a chemical sludge that has to be managed.
        |Coagulation performance is checked by jar tests.""",
        """a stirred tank receiving ferric salt|a reaction tank with calcium hydrate feed|a floc basin fed with alum
        |a crystallizing vessel seeded with sand|a stirred vessel where sparingly soluble hydroxides arise""",
        """adding ferric salt to {s} so that a sparingly soluble solid drops out
        |shifting the alkalinity of {s} until hydroxides fall out as flocs
        |seeding {s} with crystals on which a sparingly soluble salt grows
        |stirring alum in {s} and letting the flocs sink""",
        """the ferric salt is added in a molar excess of 1.2 to 2
        |a polymer is stirred in slowly to enlarge the flocs
        |sunken flocs are partly returned as seeds
        |the stirred tank is followed by a lamella tank""",
    ),
    "ion_exchange": _principle(
        "water",
        "C02F1/42|B01J47/02|B01J49/00",
        "metals crvi nitrate cyanide fluoride nh4",
        "ion exchange|ion exchangers|selective ion exchange|ion exchange polishing|demineralisation by ion exchange",
        """Ion exchangers are used for polishing and are regenerated with acid, caustic or brine.
        |Selective ion exchange tolerates a high background of neutral salts.
        |The eluate of the ion exchanger is treated separately.
        |Ion exchange permits rinsing water of demineralised quality to be reused.""",
        """a column of chelating resin beads|a resin charge with quaternary functional groups
        |a carousel of columns with sulfonated styrene beads|a zeolitic cation-swapping mass
        |a tower of iminodiacetate resin""",
        """percolating {s} through resin beads which swap harmless counterions for the unwanted ones
        |loading functional groups of a resin from {s} and later eluting them
        |trading sodium or chloride of a styrene bead against the species in {s}
        |conducting {s} over chelating beads that bind selectively""",
        """the resin is eluted countercurrently
        |the beads have a uniform diameter of 0.6 millimeters
        |two columns follow each other and a third is being eluted
        |the functional groups are thiol or amidoxime groups""",
    ),
    "activated_sludge": _principle(
        "water",
        "C02F3/12|C02F3/30|C02F3/02",
        "bod nh4 nitrate phosphorus cyanide oil",
        """biological treatment|activated sludge treatment|aerobic biological treatment
        |activated sludge with nitrification|a biological WWTP""",
        """Activated sludge is kept in an aeration tank and separated in a clarifier.
        |Biological treatment is sensitive to inhibitory substances and to shock loads.
        |Sludge age and food-to-microorganism ratio are the main design values.
        |Aerobic and anoxic zones alternate for nitrogen control.""",
        """an aerated basin populated by bacterial flocs|plastic carriers overgrown with a bacterial film
        |a bubbled pond with suspended biomass|a sequencing vessel with air spargers
        |a fluidized carrier bed supplied with air bubbles|a carousel ditch with paddle rotors""",
        """sparging air in {s} so that floating bacteria breathe and consume what is dissolved
        |keeping {s} in alternating aerated and oxygen-free periods with suspended bacteria
        |circulating {s} past carriers overgrown with a bacterial film
        |feeding {s} to bacteria that are returned after settling""",
        """the air spargers are slit rubber discs
        |the carriers fill 30 to 65 % of the basin
        |the bacteria stay in the basin for 8 to 30 days
        |paddle rotors stop during the oxygen-free period""",
    ),
    "anaerobic": _principle(
        "water solid",
        "C02F3/28|C02F11/04|C12M1/107",
        "bod colour oil sludge",
        "anaerobic digestion|anaerobic treatment|a UASB reactor|anaerobic pretreatment|biogas plants",
        """Anaerobic digestion takes place at 35-40 °C and yields biogas.
        |UASB reactors tolerate high loading rates and need little space.
        |Anaerobic treatment produces much less sludge than aerobic systems.
        |The biogas is desulphurised and used in a boiler.""",
        """a gastight fermenter with methane-forming granules|a sealed tank from whose dome combustible gas is tapped
        |a fermenting tower with three-phase hoods|an air-free vessel holding methanogens
        |an expanded blanket of methanogenic granules""",
        """fermenting {s} with exclusion of air so that methane rises under hoods
        |lifting {s} through a blanket of methanogenic granules
        |keeping {s} air-free and lukewarm until methane-forming microbes have worked
        |souring {s} first and then letting methanogens complete the fermentation""",
        """the methane is stored beneath a flexible dome
        |the granules are retained by inclined hoods
        |the fermenter is stirred by its own gas
        |souring lasts 6 to 20 hours""",
    ),
    "stripping": _principle(
        "water",
        "C02F1/20|B01D19/00|C02F1/04",
        "nh4 aox cyanide",
        "stripping|air or steam stripping|a steam stripper|steam stripping|air strippers",
        """Stripping transfers the volatile substance into a gaseous phase that has to be treated.
        |Steam strippers are operated with reflux; scaling is the main operational problem.
        |For air stripping, the feed is made alkaline with caustic.
        |Strippers achieve 90-99 % in one pass.""",
        """a desorber with a rising carrier gas|a plate column heated from below by live vapor
        |a vacuum degasser with trickled packings|a blow-out tower with fan-driven counterflow""",
        """blowing a carrier gas upward against trickling {s} so that dissolved fugitives are expelled
        |boiling out the fugitive part of {s} by live vapor in a plate column
        |degassing {s} under vacuum while it trickles down
        |expelling the fugitive part of {s} by fan-driven counterflow""",
        """lye is added so that the alkalinity exceeds pH 11 before the blow-out
        |the plates carry movable valves
        |the vacuum is 100 to 400 millibar absolute
        |the expelled part is taken up in dilute acid""",
    ),
    "chem_ox": _principle(
        "water",
        "C02F1/72|C02F1/78|C02F1/32",
        "cyanide colour aox bod nh4",
        "chemical oxidation|advanced oxidation processes|wet oxidation|ozonation|oxidation with hydrogen peroxide",
        """Ozonation or hydrogen peroxide oxidises compounds that are poorly biodegradable.
        |Wet oxidation is applied at 150-320 °C to concentrated streams.
        |Advanced oxidation is used as a polishing step or to raise biodegradability.
        |Reagent cost is the main constraint of chemical oxidation.""",
        """a contact tank with iron salt and perhydrol|a bubble column charged from an O3 generator
        |a pressure vessel in which O2 attacks at heat|a mixer for persalts and ferrous ions
        |a hypochlorite dosing loop""",
        """breaking the molecules in {s} down by hydroxyl radicals set free from perhydrol and ferrous ions
        |bubbling O3 through {s} until the molecules are cleaved
        |attacking {s} with compressed O2 at heat and pressure
        |dosing hypochlorite or persalts to {s} so that molecular bonds are cleaved""",
        """ferrous ions and perhydrol are present in a ratio of 1 to 10
        |the acidity is held between pH 2.8 and 3.5
        |undissolved O3 is destroyed on manganese dioxide
        |the persalt is peroxodisulfate""",
    ),
    "electrolysis": _principle(
        "water",
        "C02F1/461|C02F1/463|C25C1/00",
        "metals crvi cyanide colour oil",
        "electrolytic treatment|electrolysis|electrocoagulation|electrolytic recovery|electrochemical treatment",
        """Electrolysis deposits the dissolved substance or destroys it at the electrode.
        |Electrochemical treatment avoids the addition of salts.
        |The efficiency of electrolytic recovery drops at low concentration.
        |In electrocoagulation sacrificial electrodes release aluminium.""",
        """a cell having expanded-mesh cathodes|a trough with boron-doped diamond anodes
        |consumable iron plates connected to a direct-current source|a rotating cylinder cathode
        |a bipolar stack between current leads""",
        """applying direct current between plates dipping in {s}
        |winning or destroying what {s} contains at a rotating cathode
        |dissolving iron anodes in {s} by current so that flocs arise
        |pumping {s} through a bipolar stack under current""",
        """the current density is from 50 to 600 amperes per square meter
        |polarity is reversed every 15 minutes
        |the anodes are boron-doped diamond on niobium
        |the cathode mesh is drawn as a basket""",
    ),
    "flotation": _principle(
        "water",
        "C02F1/24|C02F1/40|B03D1/14",
        "oil tss bod phosphorus colour",
        "dissolved air flotation|flotation|DAF|a flotation unit|separators followed by flotation",
        """In dissolved air flotation a pressurised recycle is released at the bottom of the basin.
        |Flotation requires a shorter residence time than settling.
        |DAF units are covered where odour may arise.
        |Flotation agents are dosed upstream; float is skimmed off.""",
        """a shallow tank with microbubble nozzles and a surface scraper|a tank in which fine bubbles lift a froth
        |an expansion nozzle bank beneath a scum rake|a bubble-lifting cell with a paddle scraper""",
        """letting microbubbles cling to what is in {s} and lift it up as a froth
        |expanding gas-saturated liquid in {s} and raking the scum away
        |raising the undissolved part of {s} with fine bubbles to a surface scraper
        |attaching microbubbles to {s} and scraping the froth""",
        """the microbubbles measure 20 to 80 micrometers
        |the scum rake runs intermittently
        |from 10 to 30 % of the clear liquid is saturated with gas at 5 bar
        |the shallow tank is less than 1.2 meters deep""",
    ),
    "evaporation": _principle(
        "water",
        "C02F1/04|B01D1/26|C02F1/06",
        "metals nitrate bod fluoride crvi aox",
        """evaporation|vacuum evaporators|zero liquid discharge by evaporation|evaporators
        |mechanical vapour recompression""",
        """Evaporators concentrate {w} to a small volume; mechanical vapour recompression saves steam.
        |Evaporation leaves a concentrate that is crystallised or disposed of.
        |Foaming and scaling limit the evaporator throughput.
        |Zero liquid discharge is attained by evaporation in several effects.""",
        """a falling-film boiler with a distillate pump|a thin-layer boiling drum|a flash vessel delivering distillate
        |a forced-circulation heater with a brine sump|a boiling tower whose fumes are compressed by a fan""",
        """boiling {s} down to a thick brine and drawing off clean distillate
        |letting {s} run as a thin layer over heated tubes until a brine remains
        |flashing {s} under reduced pressure and collecting distillate
        |thickening {s} by boiling, the fumes being compressed by a fan""",
        """the heated tubes are made of duplex steel
        |antifoam is sprayed on the brine sump
        |the fan raises the fumes by 8 to 15 kelvin
        |crystals are centrifuged from the thick brine""",
    ),
    "wetland": _principle(
        "water",
        "C02F3/32|C02F3/04|C02F3/10",
        "bod nitrate phosphorus tss metals nh4",
        "constructed wetlands|a vertical-flow wetland|reed bed treatment|integrated constructed wetland systems",
        """Constructed wetlands with vertical or horizontal flow need a large area but hardly any energy.
        |Reed beds are used as a final treatment before discharge.
        |The wetland performs less well at low temperatures.
        |Wetland sediments are removed after 10-15 years.""",
        """a planted gravel basin with cattail roots|a rooted sand filter sown with rushes
        |a marsh trench with emergent plants|floating mats bearing sedge and iris""",
        """letting {s} seep through gravel penetrated by plant roots
        |flooding a planted sand layer with {s} at intervals
        |leading {s} slowly among roots of cattail and sedge
        |trickling {s} into a marsh trench where plants and root microbes take up substances""",
        """the gravel is graded from 2 to 16 millimeters
        |a drain hose lies under the roots
        |the plants are mown each autumn
        |flooding alternates between two sand layers""",
    ),
    "desorption": _principle(
        "solid",
        "B09C1/06|F26B11/04",
        "soil_hc sludge",
        "thermal desorption|thermal treatment|indirectly heated desorbers|ex situ thermal desorption",
        """Thermal desorption operates at 300-650 °C with subsequent treatment of the vapours.
        |Indirectly heated desorbers keep the volume of waste gas low.
        |Throughput of thermal treatment depends on the moisture of the feed.
        |The treated material has to be rehumidified.""",
        """a jacketed screw that bakes the charge|a rotating oven with an outer flame|a baking drum under suction
        |a hot-plate stack with plough arms""",
        """baking {s} until the fugitive substances have been driven out and sucked off
        |turning {s} over in an oven fired from outside
        |ploughing {s} across hot plates under suction
        |roasting {s} in a jacketed screw""",
        """the oven is swept by superheated steam
        |the plough arms turn at 2 to 6 revolutions per minute
        |the charge is crumbled below 40 millimeters
        |the baked charge is quenched by a fine spray""",
    ),
    "stabilise": _principle(
        "solid",
        "B09B3/25|C04B18/04",
        "ash soil_hc",
        "stabilisation and solidification|solidification|stabilisation with binders|chemical stabilisation",
        """Stabilisation with hydraulic binders reduces leaching from the landfilled product.
        |Solidification increases the tonnage for disposal by 20-50 %.
        |Leaching tests are carried out on the solidified product after 28 days.
        |The binder demand is found in trials on the residue.""",
        """a kneader for cement paste and the charge|a geopolymer matrix cast in molds
        |a pelletizing dish with pozzolan feed
        |a paste mixer and a curing rack""",
        """kneading {s} with pozzolan and letting the paste harden to a stone
        |locking {s} in a geopolymer matrix
        |pelletizing {s} with cement paste
        |encasing {s} in a hardened lump from which nothing is washed out""",
        """the paste contains 15 to 40 % pozzolan
        |the stones cure for a week in humid air
        |a phosphate additive ties up lead
        |the matrix is activated by water glass""",
    ),
    "washing": _principle(
        "solid",
        "B09C1/02|B08B3/04",
        "soil_hc ash",
        "soil and residue washing|washing|extraction with water|wet extraction|acid washing",
        """Washing transfers the contaminants to the fine fraction, which is disposed of.
        |The wash water is treated and recirculated.
        |Acid washing leaves a residue suitable for recovery.
        |Extraction works best with a low share of clay.""",
        """an attrition cell and a sieve cascade|a countercurrent leach tank|a rinse drum with surfactant sprays
        |agitated leach vats with a belt screen""",
        """rubbing the grains of {s} against each other in surfactant solution and sieving the slime out
        |leaching {s} countercurrently in agitated vats
        |rinsing {s} on a sieve cascade
        |suspending {s} in dilute leachant and screening it""",
        """the leachant is dilute citric solution
        |slime below 63 micrometers is sieved out
        |the vats are agitated by airlifts
        |surfactant is skimmed and returned""",
    ),
    "dewatering": _principle(
        "solid",
        "C02F11/12|C02F11/122|F26B3/00",
        "sludge ash",
        "mechanical dewatering|dewatering and drying|dewatering|a filter press followed by a dryer",
        """Dewatering reduces the volume for disposal; the centrate is returned to the inlet.
        |A filter press attains a dry solids content of 35-45 %.
        |Drying is economic where surplus steam is available.
        |Conditioning with polymer improves dewatering.""",
        """a screw squeezer with slotted jacket|chambers with inflatable diaphragms
        |a perforated belt between squeeze rollers
        |a decanter bowl with a conveyor spiral|a greenhouse floor with a turning robot""",
        """squeezing {s} between rollers until crumbly cake leaves
        |inflating diaphragms against {s} to expel moisture
        |spinning {s} in a bowl whose spiral discharges cake
        |turning {s} over in a greenhouse until it crumbles""",
        """the diaphragms are inflated to 15 bar
        |the slots of the jacket narrow toward the outlet
        |cake is broken by rotating knives
        |a flocculant is mixed in just ahead of squeezing""",
    ),
}


HOSTS: dict[str, Value] = {
    "cement": _host(
        "nox so2 dust hg dioxin hcl co2 nh3 voc n2o hf",
        "cement kilns|clinker production|the cement industry|preheater kilns for cement clinker",
        """a rotary drum in which raw meal is burnt|a pyroprocessing line for hydraulic binder
        |a calciner and tube furnace fed with marl|a heat-exchanger tower for Portland raw meal
        |a drum burning limestone and clay""",
    ),
    "lime": _host(
        "nox so2 dust co2 hcl hg",
        "lime kilns|quicklime production|the lime industry|parallel-flow regenerative lime kilns",
        """a shaft in which chalk is calcined|a calcining shaft for burnt calcium oxide
        |a stack charged with dolomite lumps
        |a twin-shaft calciner""",
    ),
    "glass": _host(
        "nox so2 dust hf hcl ash hg fluoride",
        "glass furnaces|container glass production|the glass industry|float glass furnaces",
        """a tank melting silica sand and cullet|an end-port melter for bottles|a melter with a tin bath
        |a molten silicate bath for panes and jars""",
    ),
    "refinery": _host(
        "nox so2 dust co2 h2s voc nh4 oil aox bod metals soil_hc sludge cyanide n2o",
        "mineral oil refineries|FCC units|the refining sector|FCC regenerators",
        """a works that cracks crude|a coke burn-off vessel of a riser cracker|a petroleum distillation site
        |a crude topping and cracking plant""",
    ),
    "coal": _host(
        "nox so2 dust hg co2 hcl hf ash n2o nh3 metals tss",
        "large combustion plants|coal-fired power plants|pulverised coal boilers|thermal power stations",
        """a steam generator burning black fuel|an electricity works burning lignite dust|a boiler feeding a turbine set
        |a utility steam raiser fed with anthracite""",
    ),
    "incinerator": _host(
        "nox so2 dust hg dioxin hcl hf ash nh3 metals odour n2o",
        "waste incineration plants|municipal solid waste incinerators|grate incineration|waste-to-energy lines",
        """a hearth consuming household refuse|a moving stoker for garbage|a refuse-burning house
        |a burner of garbage and clinical rubbish""",
    ),
    "sinter": _host(
        "nox so2 dust dioxin hg hcl hf voc",
        "sinter plants|iron ore sintering|sinter strands|the iron ore sinter sector",
        """a traveling pallet on which fine hematite is agglomerated|an agglomerating band ahead of the blast furnace
        |a suction strand charged with hematite fines|a pallet machine for baking magnetite""",
    ),
    "coke": _host(
        "h2s nh3 voc dust nh4 cyanide bod oil soil_hc odour",
        "coke oven plants|coking plants|by-product coke ovens|coke production",
        """a battery carbonizing bituminous charge|slot chambers pyrolyzing fat coal|a carbonization battery
        |chambers from which incandescent carbon is pushed""",
    ),
    "eaf": _host(
        "dust dioxin hg voc metals tss oil ash",
        "electric arc furnaces|EAF steelmaking|electric steel plants|scrap-based steelmaking",
        """a melt shop lit by graphite rods|a vessel liquefying old cars and shreds|a ladle shop melting ferrous shreds
        |a graphite-rod melter""",
    ),
    "foundry": _host(
        "dust voc odour nh3 dioxin tss soil_hc",
        "foundries|iron foundries|cupola furnaces and casting shops|the foundry sector",
        """a molding line with resin-bonded cores|a pouring hall for engine blocks|a hall in which gray melt is poured
        |a core-making and pouring bay""",
    ),
    "aluminium": _host(
        "hf so2 dust co2 fluoride cyanide ash",
        "primary aluminium smelters|aluminium electrolysis|pot rooms of aluminium smelters|anode baking plants",
        """a row of cells reducing alumina in cryolite|a Soderberg cell hall|cells tapping light metal
        |a carbon block ring oven for fused-salt cells""",
    ),
    "copper": _host(
        "so2 dust hg metals ash dioxin hcl tss",
        "copper smelters|primary copper production|non-ferrous metals smelting|converters in copper smelters",
        """a flash reactor treating chalcopyrite|a matte-blowing vessel|a roaster for red-metal concentrate
        |a shaft handling cuprous scrap and matte""",
    ),
    "plating": _host(
        "metals crvi cyanide nh4 fluoride hcl oil phosphorus sludge nitrate",
        "surface treatment of metals|electroplating installations|plating shops|galvanic plants",
        """a line dipping workpieces in galvanizing baths|a chroming bath and its rinse cascade
        |a barrel line depositing nickel coats|a finishing line for screws and taps""",
    ),
    "pickling": _host(
        "hcl hf nox metals nitrate fluoride sludge tss oil crvi",
        "pickling lines|hot dip galvanising|ferrous metals processing|strip pickling",
        """a descaling bath for steel coils|a bath freeing wire rod of scale|a zinc kettle with acid pretreatment
        |a descaling tank for stainless tubes""",
    ),
    "ceramics": _host(
        "hf so2 dust hcl nox voc fluoride tss",
        "ceramic kilns|brick and roof tile works|tunnel kilns|the ceramics industry",
        """a firing passage for clay blanks|a chamber burning stoneware pipes|a car-bottom oven for porcelain
        |a passage through which stacked adobe moves""",
    ),
    "pulp": _host(
        "h2s so2 dust nox aox bod tss phosphorus odour colour co2",
        "kraft pulp mills|chemical pulping|recovery boilers of pulp mills|bleached pulp production",
        """a digester house delignifying wood chips|a sulfate cellulose works|a black-liquor burning works
        |a line freeing cellulose fibers of lignin""",
    ),
    "paper": _host(
        "bod tss colour aox phosphorus sludge odour nh4",
        "paper mills|recovered paper processing|deinking plants|board production",
        """a Fourdrinier with its white-loop|a repulping line for old newsprint|a cardboard machine
        |a drum pulper dissolving used cartons""",
    ),
    "tannery": _host(
        "h2s crvi bod nh4 oil voc odour tss colour sludge aox",
        "tanneries|the tanning of hides and skins|leather production|beamhouse operations",
        """a liming drum for cowhide|a works turning pelts to upholstery cover|rotating vats for unhairing pelts
        |a soaking and fleshing shop for sheep pelts""",
    ),
    "textile": _host(
        "colour bod voc odour aox metals crvi tss oil phosphorus",
        "textile finishing mills|textile dyehouses|the textiles industry|batch dyeing of fabrics",
        """a jet machine coloring knit ware|a stenter and a padder for woven webs|a yarn-coloring autoclave
        |a works printing cotton webs""",
    ),
    "brewery": _host(
        "bod phosphorus odour co2 nh4 tss sludge nitrate",
        "breweries|beer production|the brewing sector|malting and brewing installations",
        """a wort kettle and fermenting cellar|a site mashing barley|a lager cellar with bottle washers
        |a house boiling hops""",
    ),
    "slaughter": _host(
        "bod oil odour nh4 phosphorus tss nh3 sludge",
        "slaughterhouses|animal by-products installations|rendering plants|meat processing",
        """an abattoir|a carcass cutting hall with a blood tank|a cooker for offal and feathers
        |a line stunning and eviscerating poultry""",
    ),
    "dairy": _host(
        "bod oil phosphorus nitrate odour tss nh4 sludge",
        "dairies|milk processing|cheese production|the dairy sector",
        """a whey and curd works|a creamery|a butter churn hall|a spray tower making infant powder""",
    ),
    "sugar": _host(
        "bod odour nh4 dust nox co2 tss nitrate sludge",
        "sugar factories|sugar beet processing|sugar manufacturing|beet pulp drying",
        """a root slicing and diffuser house|a saccharose crystallization works|a molasses works
        |a cossette extraction tower""",
    ),
    "pig": _host(
        "nh3 odour dust h2s nh4 bod phosphorus nitrate co2 n2o",
        "intensive rearing of pigs|pig housing|slurry storage on pig farms|fattening pig farms",
        """a sow barn with slatted floor|a livestock stable holding hogs|a hog manure pit|a stall for piglets""",
    ),
    "poultry": _host(
        "nh3 odour dust nh4 n2o phosphorus",
        "intensive rearing of poultry|poultry housing|laying hen houses|broiler farms",
        """an aviary with manure belts|a barn holding turkeys|a hatching and chick shed|a hennery with litter floor""",
    ),
    "nitric": _host(
        "nox n2o nh3 nitrate nh4",
        "nitric acid plants|production of nitric acid|nitrate fertiliser sites|HNO3 production",
        """a burner oxidizing over platinum gauze|an absorption train making aqua fortis|an aqua fortis works
        |a calcium saltpeter granulating works""",
    ),
    "chlor": _host(
        "hg hcl aox metals cyanide fluoride voc",
        "chlor-alkali plants|chlorine production|brine electrolysis units|large volume inorganic chemicals",
        """an amalgam cell room|cells splitting sodium salt solution|a works liquefying halogen
        |a diaphragm cell line giving lye""",
    ),
    "pharma": _host(
        "voc aox bod nh4 odour colour hcl cyanide nh3",
        "organic fine chemicals plants|pharmaceutical production|multipurpose batch plants|API manufacturing",
        """a stirred kettle synthesizing drugs|a campaign of active-ingredient syntheses|a medicament works
        |a reactor train for intermediates and antibiotics""",
    ),
    "coating": _host(
        "voc odour dust crvi tss nh4 oil metals",
        "surface treatment using solvents|vehicle coating lines|paint shops|coating of car bodies",
        """a cabin in which automobiles are lacquered|a spray booth and curing oven|an enamel dip line
        |a lacquering tunnel for vans""",
    ),
    "panels": _host(
        "voc dust odour nox bod tss",
        "wood-based panels production|particleboard presses|MDF dryers|the panel sector",
        """a flake dryer ahead of a hot platen|a hall pressing glued chips|a fiber mat line with steam platen
        |a chipboard works""",
    ),
    "semicon": _host(
        "hf voc nh3 hcl fluoride n2o nh4 metals nox",
        "semiconductor manufacturing|wafer fabs|electronics manufacturing|photovoltaic cell production",
        """a clean room etching silicon discs|a tool depositing thin films on chips|a bench cleaning solar slices
        |a lithography bay""",
    ),
    "landfill": _host(
        "nh4 bod h2s odour aox metals soil_hc co2 voc nitrate",
        "landfills|landfill leachate|waste treatment facilities|closed landfill sites",
        """a garbage dump and its seepage|a capped tip|a dump from which percolate seeps|an old rubbish mound""",
    ),
    "sewage": _host(
        "sludge phosphorus nh4 nitrate odour h2s bod tss n2o",
        "common waste water treatment plants|urban sewage works|centralised WWTPs|municipal treatment plants",
        """a purification station of a town|a communal clarifying station|a station serving households by sewers
        |a town's purification basins""",
    ),
}


FEATURES: dict[str, Value] = {
    "heat": _feature(
        "Y02E20/12|Y02P70/10|F28D21/00",
        """Waste heat is recovered and used for district heating or steam generation.
        |Energy recovery from the treated flow lowers the fuel demand of the installation.
        |The heat recovered covers part of the site's energy balance.
        |The system is combined with an economiser for energy recovery.""",
        """a regenerator warms the incoming stream with the outgoing one
        |residual warmth is transferred to a thermal oil circuit
        |an exchanger withdraws residual warmth and preheats the feed
        |surplus warmth is raised by a thermal pump and given to a dryer
        |enthalpy of the cleaned stream drives an organic Rankine turbine""",
    ),
    "staged": _feature(
        "B01D2258/02",
        """The treatment is carried out in two stages, the second of which acts as a polishing step.
        |A multi-stage arrangement is chosen in order to reach the lower end of the BAT-AEL range.
        |Two-stage systems separate bulk removal from final polishing.
        |A second stage is installed downstream as a safeguard.""",
        """a first pass takes away the greater part and an identical follow-up pass takes the remainder
        |two such devices are traversed one after the other under unlike conditions
        |a coarse section is succeeded by a fine section
        |the stream crosses twin units consecutively, the latter being the gentler
        |a follow-up unit intercepts whatever escapes from the preceding one""",
    ),
    "control": _feature(
        "G05B13/02|G01N33/00",
        """Reagent dosing is controlled automatically on the basis of continuous monitoring (CEMS).
        |An advanced process control system with feed-forward signals adjusts the operation.
        |Continuous monitoring of the inlet allows the operating regime to be optimised on-line.
        |On-line analysers are linked to the distributed control system.""",
        """a probe senses the incoming amount and a computing circuit sets the actuators in advance
        |a neural predictor trims the set point from sensor readings
        |a valve is throttled in response to a spectrometer signal
        |a regulator reacts to a sensed deviation before it reaches the outlet
        |sensor readings are fed to a model which commands the pump""",
    ),
    "recover": _feature(
        "Y02P20/10|Y02W30/20|B01D2259/00",
        """The separated substance is recovered as a marketable by-product.
        |Material recovery substitutes virgin raw materials and avoids disposal.
        |The recovered product is sold to third parties.
        |The technique allows recycling of the recovered substance within the sector.""",
        """what has been taken out is refined into a saleable good
        |the captured matter is worked up and handed to a fertilizer or chemical maker
        |the isolated fraction is reclaimed as feedstock
        |a commodity of commercial purity is won from the captured matter
        |the yield of captured matter is crystallized for resale""",
    ),
    "pretreat": _feature(
        "B01D50/00",
        """A pretreatment step (cooling or bulk separation) protects the main stage.
        |Upstream conditioning is required where the inlet is too hot or too heavily loaded.
        |Conditioning ahead of the unit extends the lifetime of the installation.
        |Pretreatment removes interfering components.""",
        """troublesome companions are held back beforehand by a guard chamber
        |the stream is first tempered and freed of coarse matter
        |a sacrificial guard layer sits in front
        |a quench tames the stream before it enters
        |ballast substances are sorted out prior to the principal operation""",
    ),
    "loop": _feature(
        "Y02A20/152|Y02W10/40",
        """Part of the treated flow is recirculated to the process, so that discharge is minimised.
        |Closed-loop operation reduces the volume to be released and fresh water or fresh air demand.
        |Recirculation reduces the specific discharge of the installation.
        |With recirculation the site operates almost discharge-free.""",
        """the cleaned stream goes back to where it came from
        |nothing but a small purge leaves because the purified stream is employed afresh
        |the purified stream is led home to its source in a ring
        |cleaned fluid serves again at the place of origin
        |a ring conduit ties the outlet to the source""",
    ),
    "peak": _feature(
        "B01D2259/40",
        """Buffer capacity equalises peak loads from batch operation.
        |An equalisation volume is provided to cope with fluctuating loads.
        |Load peaks during start-up and shutdown are covered by buffering.
        |Buffering of peaks permits a smaller main unit.""",
        """a reservoir swallows surges and releases them evenly
        |bursts are stored for a while and metered out later
        |a holding vessel levels sudden surges
        |an accumulator takes in the surge when a kettle is emptied
        |an intermediate store smooths an intermittent feed""",
    ),
    "regen": _feature(
        "B01D53/0454|B01D2259/40",
        """Parallel lines ensure continuous availability during maintenance and regeneration.
        |Redundant units are installed so that one can be regenerated while the other is in operation.
        |Availability above 98 % is ensured by standby capacity.
        |Regeneration takes place without interrupting operation, thanks to redundancy.""",
        """one of two vessels works while its twin is revived
        |an idle sister unit is refreshed and then swapped in
        |flaps shift the feed from a tired chamber to a revived one
        |three chambers rotate among duty, revival and rest
        |a worn-out unit is relieved by a fresh one in full flight""",
    ),
}
