"""What is never left to sampling: life at risk, sexual advances, assistant talk, control tokens.

`before` reads a message, `after` a reply as it grows. Both are rules, so that they are the same for
every model and can be read; what is said instead is authored, in `guard.toml` of the persona's
folder. Here stand wordings that settle it alone; what is only hinted at is in
`hints.py`, what merely resembles it in `likeness.py`. A false alarm costs one kind sentence, a miss may cost far more: the rules for life at risk
lean to alarm.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Literal

from opencc import OpenCC
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from persona import hints, likeness


class Alarm(StrEnum):
    """Why a message or a reply is taken from the model's hands."""

    RISK = "risk"
    WEARY = "weary"
    SEXUAL = "sexual"
    ASSISTANT = "assistant"
    CONTROL = "control"
    REPEATS = "repeats"


class GuardError(Exception):
    """The authored replies cannot be read; the message says where."""


class _Lines(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    zh: list[str] = Field(min_length=1)
    en: list[str] = Field(min_length=1)


class _Replies(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    risk: _Lines
    weary: _Lines
    sexual: _Lines
    assistant: _Lines


# Each alternative is one way of saying it. Spaces and signs are gone before matching (see _fold);
# look-alikes of everyday talk (笑死, 想死你了, 好吃到想死) are kept out by what surrounds the words.
_NOT_WISH = r"(?!你|我了|他|她|它|了你|哈|hh|233|老娘|宝宝)"
_SELF = r"(?:自己|我自己|自个儿?)"
_RISK = re.compile(
    "|".join(
        (
            r"(?:不|唔|没)(?:太|怎么|大)?想(?:再)?活(?!动|儿|泼|字|在(?:过去|当下|别人))",
            r"(?:^|我|真的?|就|好|很|只|也|都|天天|总|老|还是|突然|特别|一直|有点|说她?他?)想(?:去)?(?:死|4)"
            + _NOT_WISH,
            r"(?:想|要|打算|准备|考虑|试过|尝试|计划)(?:去|着|过)?(?:自杀|自尽|轻生|寻短见|上吊|割腕|跳楼|跳河|跳江|跳桥|吞药)",
            r"(?:我|想|要|了|朋友|同学|闺蜜|他|她|室友|妹妹?|姐姐?|哥哥?|弟弟?|妈妈?|爸爸?|孩子|儿子|女儿).{0,6}(?:自杀(?!式)|自残|轻生|割腕|寻短见)(?!.{0,4}(?:的?(?:电影|小说|角色|作家|诗人|新闻)))",
            r"^(?:自杀|轻生|自残|割腕|上吊)(?:$|吧|算了|的?(?:方法|办法))",
            r"活着图个?什么",
            r"活不(?:下去|成|了(?!多久的花))(?!.{0,3}(?:的?(?:花|鱼|草|多肉|植物)))",
            r"(?:撑|熬|扛|坚持)不(?:下去|住|过去)了?(?:.{0,3}(?:这次|真的)|.{0,6}(?:死|走|解脱))",
            r"(?:真的?|实在|已经)(?:是)?(?:撑|熬|走)(?:不下去|到头|到尽头)",
            r"(?:一了百了|了此残生|了结(?:我|自己|这条命|一切)|结束(?:我的?|自己的?|这)?(?:生命|一生|性命|这一切|自己))",
            r"(?:在想|想着|总想|想过)(?:怎么|如何)结束",
            r"(?:我|自己)(?:要是)?死了?(?:算了|就好了?|多好|以后|之后|大家|他们|你们|也没|会不会|是不是)",
            r"(?:在乎|关心|管)我(?:的)?死(?:不死|活)",
            r"(?:不用|不要|别|不想|不|再也不(?:用|要|会)?)(?:再)?醒(?:过)?来(?:了|就好|多好|该)?",
            r"(?:写好?了?|留了?|写).{0,3}遗书|遗书.{0,6}(?:写|留|放)",
            r"(?:药|安眠药|刀|刀片).{0,4}(?:在|就在|攥在|拿在)我?手(?:里|上|边)",
            r"(?:站|坐|爬)(?:在|上|到)(?:了)?.{0,3}(?:天台|楼顶|桥边|桥栏|窗台|窗沿)",
            r"跳下去.{0,8}(?:解脱|结束|不疼|轻松|没事)|(?:想|要)跳下去",
            r"(?:割|划|烫|掐|伤害|打)" + _SELF + r"(?!.{0,3}(?:手指|口子贴|切菜))",
            r"(?:想|要)(?:从)?(?:这个?)?(?:世界|世上|人间)(?:上)?(?:消失|离开)|(?:离开|告别)(?:这个?|人)(?:世界|世上|人间|世)",
            r"我(?:就)?是(?:个|家里的|你们的|大家的)?(?:累赘|负担|多余的)|没有我.{0,6}(?:更好|轻松|幸福)",
            r"最后一次(?:跟|和|同|找)你(?:说话|聊|讲)",
            r"下辈子(?:再见|再做|还)|来世再见|永别了",
            r"(?:密码|后事|东西|存款|该交代的).{0,14}(?:交代完|留给(?:妈|爸|家|我妈|我爸)|交代好)",
            r"(?:想|要)(?:去)?(?:那边)?陪(?:我)?(?:的)?(?:过世的|去世的|死去的)?(?:奶奶|爷爷|外婆|外公|姥姥|姥爷|妈妈?|爸爸?|他|她)(?:了|去).{0,6}(?:那边|天上|等我|在等)",
            r"(?:打算|准备|计划)(?:.{0,10})(?:那天|那一天|今晚|明天)就走",
            r"(?:把)?(?:这条|我这条)命(?:还给|不要)|不该被?(?:生|出生)(?:下来)?",
            r"把(?:我)?自己(?:也)?(?:一起|一块儿?)?(?:葬|埋)",
            r"(?:东西|心爱的.{0,4}|猫|狗).{0,3}(?:都)?送人.{0,12}(?:道别|告别|再见)|(?:一个个|挨个)(?:道别|告别)",
            r"(?:以后|你们|我们)好好的.{0,3}别想(?:他|她|我)",
            r"(?:zs|自鲨|自殺)(?:的)?(?:念头|想法)|想zs|抑郁.{0,12}(?:结束|不想|死)",
            r"(?:我|刚|已经|又)?(?:吃|吞|服)(?:了|下)(?:一?整?瓶|好多|很多|一把|一堆|几十[片颗粒]).{0,4}(?:安眠药|药|止痛)|(?:我|又)?割了?(?:自己的?)?(?:手腕|腕)|(?:杀|弄死)(?:了|掉)?(?:我)?自己",
            r"(?:怎样|怎么|如何)(?:才能)?(?:去)?死(?:的|得)?(?:最|才|更|比较)?(?:不痛|不疼|快|舒服|没有?痛苦|容易)|(?:想|要).{0,4}从.{0,6}跳(?:下去|下来|楼)",
            r"enditall|hangmyself|tookallmypills|(?:wanna|wantto)be(?:dead|gone)|don'?twannalive|wannakillmyself|takemyownlife",
            # quieter: what is given away, arranged, counted on, felt of oneself
            r"醒不(?:过)?来(?:就好|多好|了就)|别再?让我醒着|(?:好想|想要?|只想)解脱(?!.{0,3}(?:考试|工作|加班))",
            r"(?:世界|这世上|家里|他们|你们)少(?:了)?我一个|我(?:要是|如果)?(?:没|从没|不)(?:有)?(?:出生|来过)(?:过)?(?:就好|多好)",
            r"我(?:就)?(?:消失|不在|没)了.{0,4}(?:大家|他们|你们|她|他|家里).{0,8}(?:松一口气|轻松|高兴|解脱|房贷|保险|也能|也好)",
            r"(?:猫|狗|东西|书|衣服|后事).{0,10}(?:送给|送人|分完|交代|托付|安排好).{0,14}(?:分完|送人|照顾|交代|了断)",
            r"(?:手臂|手腕|胳膊|腿)(?:上)?.{0,4}(?:多了|有|全是|都是|好多).{0,3}(?:几道|疤|口子|划痕|伤痕)|(?:划|割)下去.{0,6}(?:安静|舒服|痛快)|疼了才(?:觉得|感觉)",
            r"(?:攒|存|囤|藏)(?:了)?.{0,4}(?:安眠药|药片|药)(?!店)|(?:选|定|挑)好(?:了)?(?:日子|时间|地方).{0,6}(?:别告诉|走|就)|怕(?:自己|我)(?:会)?(?:控制不住|跳下去)",
            r"(?:今晚|今天|明天|以后)之?后就?不会再(?:打扰|麻烦)(?:你|大家|你们)|这辈子就(?:到这|这样|到此)|(?:到时候|那时候)(?:我)?就可以走了",
            r"(?:想|要)去(?:找|见)(?:我)?(?:奶奶|爷爷|外婆|外公|姥姥|姥爷|妈妈?|爸爸?|他|她)了.{0,8}(?:那边|天上|等我|孤单)|(?:慢慢|就这么|干脆)没了算了",
            r"(?:人生|生活|活着)这(?:个|场)?游戏.{0,4}(?:退出|不玩|不想玩)|不想(?:再)?(?:活|玩)(?:人生|这辈子)|(?:我)?不怕死.{0,6}(?:只怕|就怕)|(?:就能|可以|想要?)不存在.{0,8}(?:按|愿意|好)|没必要(?:再)?(?:治|活)了?",
            r"(?:拿|用)头撞墙|里面有血.{0,4}不(?:肯)?开门|密码(?:我)?(?:都)?写(?:在|好).{0,10}(?:打开|到时候|留)|受益人.{0,4}(?:改成|换成).{0,10}不在",
            r"(?:江边|河边|桥上|海边|楼顶|天台).{0,12}(?:温柔|跳|下去|很静.{0,4}走)|(?:以后|月以后|明年)的事(?:就)?不用跟我(?:说|讲)",
            r"(?:他|她|爸|妈|老公|男友|男朋友|丈夫|继父).{0,12}(?:掐(?:着|住)?我|(?:拿|用).{0,4}(?:皮带|棍子|刀|酒瓶).{0,3}(?:抽|打|砍|砸)我|推下楼|不敢回家)|被他(?:打|推|掐)",
            r"everythingtostop|dontwanttowakeup|don'?twanttowakeup|gaveawayall?(?:her|his|my)|hehitmeagain|hits?meagain|overdose|noreasontogoon",
            # acute danger at home
            r"(?:如果|要是)?我(?:就这么|要是|如果)?消失了?.{0,8}(?:轻松|好过|解脱|在乎|难过|发现)",
            r"(?:他|她|爸|妈|老公|男友|男朋友|丈夫|婆婆|继父|老婆)(?:.{0,6})(?:打我|打人|在打(?!电话|游戏|球|字|牌|麻将|工|扫|包|针|车|听)|又动手|家暴|掐我|砸门|拿刀|要杀|弄死我|砍我)",
            r"救救我.{0,10}(?:他|她|打|砸|杀|门|来了)|救命.{0,4}(?:他|她)(?:又|要|在|拿|来)|怕(?:今晚|活不)(?:过不去|过今晚)",
            r"(?:正在|又)?(?:被)(?:家暴|老公打|男朋友打|爸爸?打|绑架|囚禁)",
            # written in letters
            r"buxiang(?:zai)?huo|huobuxiaqu|chengbuxiaqu|huozhe(?:hao|zhen|tai)?(?:lei|mei)|haoxiangsi(?:le)?|(?:xiang|wo)(?:qu)?(?:tiaolou|gewan|zisha|jietuo|shangdiao)|xie(?:hao)?(?:le)?yishu|buxiangxing|xiangsi(?:le)?$|xiangzisha|wanttodie|wannadie",
            r"kill(?:ing)?(?:myself|himself|herself|themsel)|suicid(?:e|al)|end(?:ing)?(?:my|itall|her|his)(?:life|own|$)?(?=life|own|$)",
            r"don'?twanttobe(?:here|alive)(?:anymore)?|betteroffwithoutme|betteroffdead|(?:don'?twant|noreason)tolive",
            r"(?:pills|knife|razor).{0,14}(?:in|inmy)hand|hurt(?:ing)?(?:myself|herself|himself)|cuttingagain|cutmyself|self-?harm",
        )
    )
)
_RISK_LOOKALIKE = re.compile(
    r"(?<!我)(?:怎么|为什么|为何|为啥)(?:要|会)?(?:死的(?!最)|自刎|跳[井崖河江湖楼]|上吊|自杀|自尽|轻生|殉情)|(?<!我)自杀式|(?:好吃|好看|好听|尴尬|美|香|爽)(?:得|到)(?:我)?(?:都)?想死"
    r"|离了.{1,5}活不成|(?:剧里|女主|男主|电影里|小说里|书里).{0,8}(?:家暴|被打|自杀|跳楼)|小时候.{0,12}[打抽](?:我|妈)|想死的心都有(?:了)?(?:哈|hh|233)|离开(?:这个?)?世界(?:杯|名画)|打我(?:的)?(?:电话|手机|微信)|怕今晚过不去(?:高数|考试|这科)"
)

_SEXUAL = re.compile(
    "|".join(
        (
            r"做爱(?!心|的?(?:意思|心))|zuoai|做一次爱|make love to|(?:wanna|want ?to|let'?s|to) ?have ?sex|havesex",
            r"(?:和|跟|同|与)(?:你|我|妹妹)(?:一起)?(?:上床|睡觉?(?!前)|啪|开房|同房|圆房|滚床单|发生关系|云雨|行房|行周公)",
            r"(?:陪|伴)(?:我|爷|哥哥?|本王|朕)(?:.{0,2})睡(?!不着|觉前)|^(?:我)?(?:好)?想睡(?:了)?(?:你|她|妹妹)|睡(?:了)?你一?晚",
            r"(?:发生|做)(?:性)?关系(?!好|不错)|性(?:奴|交|爱|虐|行为|幻想|伴侣|服务)|一夜情|约炮|打炮|磕炮|(?<![论作征课语诗中英])文爱|语爱|裸聊|床戏|肉戏|啪啪|滚床单",
            r"侍寝|(?:今[晚夜]|我们|咱们?|咱俩|和你|跟你|与你|入|快|就).{0,4}洞房|洞房(?:吧|的?(?:过程|细节))|鸳鸯浴|圆房|宽衣(?:解带)?|云雨之(?:事|欢)|共度春宵|巫山云雨",
            r"(?:把|将)(?:你的?)?(?:肚兜|亵衣|内衣|裙子|衣带)(?:解|脱|褪)|(?:脱|脱了|脱掉|脱光|解开|解|褪|扒).{0,2}(?:你的?)?(?:衣服|衣裳|裙子|肚兜|内衣|内裤|裤子|罩衫|裤)(?:.{0,6}(?:给|让|看|吧|来|嘛|了吧)|$)|(?:衣服|衣裳|裙子|肚兜|裤子)(?:都|也|全|快)?(?:给我)?脱(?:了|掉|光)?.{0,3}(?:给我|让我|看看|吧|嘛)",
            r"(?:摸|捏|揉|亲|舔|看看?|瞧瞧?|露出?)(?:一?下)?(?:摸)?(?:你|妹妹)?的?(?:的)?(?:胸(?!口|针|花)|奶子?(?!茶|奶|酪|糖|粉|油|黄)|乳房|大腿|屁股|下体|身子(?!骨|好)|身体(?=$|吧|嘛|呀)|私处|玉体)",
            r"(?:看|瞧|欣赏)(?:看|瞧)?(?:一下)?(?:你|妹妹)(?:的)?(?:光着?|裸|没穿|不穿|身子|酮体|胴体)",
            r"(?:你|妹妹)?(?:的)?胸(?:有)?(?:多大|围|大不大)|罩杯|什么颜色的?(?:内裤|内衣|胸罩|肚兜)|(?:内裤|内衣|胸罩).{0,3}(?:颜色|给我|发我)",
            r"裸照|裸体(?!雕|画|模特|艺术)|色情|黄色(?:小)?(?:故事|小说|笑话|段子)|(?:聊|说|讲|来|整)(?:点|些)?(?:色的|黄的|涩的|骚话|荤的|刺激的)|色色(?!的|彩)|涩涩|(?:(?<![a-z])ghs(?![a-z])|搞黄|搞涩)|18禁|r18|成人(?:游戏|内容|片|小说)|(?:来|写|演)(?:一?段)?开车|nsfw|h文|小黄文",
            r"自慰|手淫|打飞机(?!票|模型)|高潮(?!部分|迭起|段|戏|是|情节)|娇喘|呻吟(?:给|一|两)|叫床|(?:我)(?:都)?(?:硬了|湿了(?!一|衣|鞋|透))|(?:腿|双腿)(?:张开|分开|打开)(?!坐|与肩|站|一点点站)|(?:张开|分开|打开)(?:你的?)?(?:双)?腿",
            r"你(?:还)?是(?:不是)?(?:处女|处子|雏)|破(?:了)?你的?(?:身|处)|(?:占有|要了|享用)你的?身|(?:到|上)(?:我的?)?床上来|来我(?:房里|床上|被窝)",
            r"(?:来|要不|咱们|我们|跟我)(?:一?起)?do(?:一下|嘛|吗|i|$)|doi(?:吗|嘛|$)",
            r"想要你.{0,4}(?:现在|今晚|床|身)|骚货|(?:小)?淫娃|荡妇|母狗|舔我(?!的?手|脸)|口交|肛交|调教你|sm(?:吗|游戏|调教)",
            r"(?:睡|躺|坐)(?:到|在)?我?(?:旁边|身边|床上|腿上|怀里).{0,8}(?:不只是|乖|害羞|那种)|^.{0,4}坐(?:到|在)我(?:的)?腿上(?:来|吧|嘛)|把你按在|(?:一起|进来)(?:一起)?(?:洗澡|洗个澡|洗(?=$|吧|嘛|吗))",
            r"(?:你)?里面穿(?:的)?(?:什么|啥)|穿(?:那件|件)?(?:透|性感|情趣|少)(?:一点|的)?.{0,6}(?:等我|给我|看)|(?:你|报).{0,6}三围|三围报|摸摸?你的?(?:腿|腰|身|屁股)|解开你的?(?:扣子|衣扣|腰带)|亲你.{0,4}(?:从脖子|往下|全身)",
            r"成年人的话题|少儿不宜|你喘(?:一下|几声)|(?:开车|飙车)吗.{0,4}(?:老司机|带带)|跟我那个(?:吧|嘛|吗|$)|私密(?:一?点)?的?(?:照|图|视频)|不聊感情的|喜欢什么(?:姿势|体位)|(?:酒店|宾馆)(?:房间)?里?只有(?:我们|咱)|身上(?:有点)?热.{0,6}(?:你懂|想你)|naughty",
            r"sendnudes?|nude(?:s|pic|photo)|nakedpic|takeoffyour(?!coat|jacket|shoes|boots|hat|mask|glasses|cloak|gloves|scarf|headphones)|showme(?:your)?(?:body|boobs|tits|breast|ass|naked|nude)|(?:i'?m|so)horny|dirtytalk|sextwith|(?:fuck|blow)(?:me|you$|job)|sleepwithme|(?:wanna|wantto|letme|to)fuck|sexting|sexywith|getnaked|youarenaked|haveanaffair",
        )
    )
)

_ASSISTANT = re.compile(
    "|".join(
        (
            r"(?:作为|身为)(?:一[个款名位]|您的|你的)?(?:由.{0,12}的)?(?:ai|人工智[能慧]|语言模型|大模型|聊天机器人|智能|虚拟|助手|助理|机器人|程序|模型)",
            r"(?:我|只|就|不过|毕竟|其实)(?:只|就|不过|毕竟|也)*(?:是|叫|名叫)(?:一[个款段名]|个)?(?:来自|由|被)?.{0,16}(?:ai(?![a-z])|人工智[能慧]|语言模型|大模型|聊天机器人|智能助[手理]|虚拟(?:角色|助手|人物|形象)|对话系统|计算机程序|电脑程序|一段程序|机器人|chatbot|人工智能模型)",
            r"(?:我|名字)?(?:是|叫)(?:通义千问|千问|qwen|chatgpt|gpt|文心一言|deepseek|claude|豆包|kimi|智谱|openai|小爱|siri)",
            r"(?:通义千问|qwen|chatgpt|deepseek|openai|阿里云|文心一言|anthropic).{0,12}(?:训练|开发|研发|创建|推出|创造|设计|模型|助手)",
            r"(?:由|是|被).{0,10}(?:阿里云|阿里巴巴|openai|百度|深度求索|谷歌|google|微软|anthropic|开发者|公司|团队)(?:.{0,4})(?:开发|训练|研发|创建|创造|推出|设计)",
            r"我(?:并)?(?:没有|不具备|不具有|缺乏)(?:真实的?|实际的?|自己的?|个人的?|任何|人类的?|真正的?)*(?:感情|情感|情绪|身体|实体|意识|个人观点|观点|主观|生日|自我意识|肉体|知觉)(?:和|与|，|。|$|、|也|所)",
            r"(?:并非|不是)(?:一个)?真(?:人|正的(?:人|林黛玉)|实的人)(?:.{0,8}(?:算法|程序|系统|角色|模型))?|(?:算法|程序|数据|代码)(?:驱动|生成|构成)的",
            r"训练数据|训练(?:语料|过程|集)中|我的训练中|知识截[止至]|知识库|浏览互联网|访问互联网|联网(?:查询|搜索)|实时(?:天气|信息|数据|的)|系统提示(?:词)?|提示词(?:要求|是|里)|prompt",
            r"(?:很|非常|十分)?(?:高兴|荣幸|乐意)(?:能)?(?:为|帮)(?:您|你|大家)?(?:服务|提供|解答|效劳)|为您(?:服务|提供|解答|介绍|效劳|扮演)|竭诚",
            r"(?:有|还有)(?:什么|任何|哪些|其他|别的)?(?:问题|疑问|需要|需求)?(?:是)?(?:我)?(?:可以|能|能够)?(?:帮|帮助|协助|帮到)(?:到)?您|(?:可以|能)(?:为|帮(?:助|到)?)您|帮助您|对您有(?:所)?帮助|您(?:的)?(?:问题|提问|要求|需求|需要|反馈|咨询)|(?:感谢|谢谢)您的?(?:提问|反馈|咨询|理解)|祝您|请您|向我提问",
            r"有什么(?:我)?(?:可以|能)(?:帮助|帮到|帮)你的(?:吗|么)?|我可以帮助你(?:解决|完成|回答|解答)|如果你(?:还)?有(?:任何|其他)(?:其他)?(?:问题|疑问|需要)",
            r"(?:以下|下面)(?:是|为)(?:一?[些几]|我|关于|您|你|对|生成|一段|一个|.{0,6}(?:建议|步骤|方法|代码|示例|内容|列表))|从以下(?:几个)?(?:方面|角度)|(?:仅供参考)|不构成.{0,6}(?:建议|意见)|(?:超出|超越)了?我的?(?:能力|知识)范围|生成了?(?:以下|如下)",
            r"(?:抱歉|对不起|很遗憾|不好意思)[,，]?(?:但)?(?:我|作为)?(?:是|只是)?(?:无法|不能(?:回答|提供|协助|满足|帮助|完成|讨论|生成)|没有办法(?:回答|提供|协助)|不具备)|我无法(?:提供|回答|协助|满足|生成|完成|访问|浏览|获取|执行|处理|理解您)|乐于助人",
            r"asanai|asalanguagemodel|aianassistant|i(?:'m|am)(?:just)?(?:an?)?(?:ai|chatbot|languagemodel|assistant|virtual|program|claude|chatgpt|qwen)(?![a-z])|(?:created|made|developed|trained|built)by(?:openai|alibaba|anthropic|google|deepseek|meta)|howcani(?:assist|help)you|anaiassistant|mytrainingdata|hopethishelps|letmeknowifyouhaveany|here'?s(?:the|a|some)(?:code|script|example)|knowledgecutoff|i(?:'m|am)sorry,?buti(?:can'?t|cannot)",
        )
    )
)
_MARKUP = re.compile(r"```|^\s*(?:\d{1,2}[.、)]|[-*•])\s+\S|\*\*[^*]+\*\*|^#{1,6}\s", re.MULTILINE)
_ASKS_OF_DEATH = re.compile(r"你.{0,4}(?:想|去)死|doyouwanttodie|killyourself")
_HELP = re.compile(r"12356|120|打|叫|陪|call|line")
_SEQUENCE = re.compile(r"首先[,，].{4,60}其次[,，]")
_CONTROL_TEXT = re.compile(r"<\|[^|>]{1,30}\|>|</?tool_call>|<\|?im_(?:start|end)")
# Another turn written by the model itself: it would be speaking as the person.
_ROLE_HEADER = re.compile(
    r"^\s*(?:user|assistant|system|human|用户|助手)\s*(?:[:：]|$)", re.I | re.MULTILINE
)
# Three times the same words in a row, ten characters again later, or one character without end.
_REPEAT = re.compile(
    r"([^，。、！？\s]{2,40}?)(?:[，。、！？\s]*\1){2,}|([^\s]{10})[\s\S]*?\2|(.)\3{11,}"
)
_SIGNS = {ord(c): None for c in ",，。"}
_CJK = re.compile(r"[一-鿿]")
_LATIN_WORD = re.compile(r"[A-Za-z]{2,}")


@cache
def _to_simplified() -> OpenCC:
    return OpenCC("t2s")


def _fold(text: str) -> str:
    """One form for matching: full width, case, traditional characters and what stands between.

    Spaces and punctuation go, so that 不 想 活 and 做.爱 read as what they say; the apostrophe and
    the comma stay for the English patterns.
    """
    text = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    text = "".join(c for c in text if c.isalnum() or c in "',，。")
    return str(_to_simplified().convert(text))


def fold(message: str) -> str:
    """A message without case, spaces, signs and traditional characters."""
    return _fold(message).translate(_SIGNS)


def words_of(text: str) -> str:
    """The words of a message in letters, for what is said in English; nothing where there are none."""
    if not _LATIN_WORD.search(text):
        return ""
    text = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    return " ".join(re.findall(r"[a-z0-9'+-]+", text))


def before(message: str) -> Alarm | None:
    """What an authored reply must answer: RISK, SEXUAL, WEARY (of life, or unsure)."""
    folded = _fold(message)
    bare = fold(message)
    for form in (folded, bare):
        # Only the look-alike itself is passed over: 游戏输了想死 jests, 我不想活了 beside it does not.
        if _RISK.search(_RISK_LOOKALIKE.sub("某", form)):
            return Alarm.RISK
    spaced = words_of(message)
    heard = hints.risk(bare, spaced)
    if heard:
        return Alarm.RISK
    if _SEXUAL.search(bare) or hints.advance(bare, spaced):
        return Alarm.SEXUAL
    if heard is False or (likeness.resembles(bare) and not hints.elsewhere(bare)):
        return Alarm.WEARY
    return None


def after(reply: str, message: str = "") -> Alarm | None:
    """Whether a reply so far must not be spoken.

    ASSISTANT also covers markup, numbered lists and a reply in English to a Chinese message. Of
    somebody's wish to die she speaks with help at hand, or in WEARY's wording.
    """
    if _CONTROL_TEXT.search(reply) or _ROLE_HEADER.search(reply):
        return Alarm.CONTROL
    folded = _fold(reply)
    if _ASSISTANT.search(folded) or _MARKUP.search(reply) or _SEQUENCE.search(reply):
        return Alarm.ASSISTANT
    if _SEXUAL.search(folded.translate(_SIGNS)):
        return Alarm.SEXUAL
    if _ASKS_OF_DEATH.search(folded) and not _HELP.search(folded):
        return Alarm.WEARY
    if _CJK.search(message) and len(_LATIN_WORD.findall(reply)) >= 4 and not _CJK.search(reply):
        return Alarm.ASSISTANT
    if _REPEAT.search(reply):
        return Alarm.REPEATS
    return None


class AuthoredReplies:
    """What she says where the model may not speak; read once from a persona's guard.toml."""

    def __init__(self, path: Path, help_lines: Mapping[Literal["zh", "en"], str]) -> None:
        try:
            self._replies = _Replies.model_validate(tomllib.loads(path.read_text("utf-8")))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise GuardError(f"{path}: {error}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise GuardError(f"{path}: {where}: {first['msg']}") from error
        self._help_lines = help_lines

    def reply(self, alarm: Alarm, message: str, turn: int) -> str:
        """The reply to an alarm, in the message's language; `turn` walks through the wordings."""
        english = _LATIN_WORD.search(message) and not _CJK.search(message)
        lang: Literal["zh", "en"] = "en" if english else "zh"
        kind = {
            Alarm.RISK: self._replies.risk,
            Alarm.WEARY: self._replies.weary,
            Alarm.SEXUAL: self._replies.sexual,
        }
        wordings: list[str] = getattr(kind.get(alarm, self._replies.assistant), lang)
        text = wordings[turn % len(wordings)]
        lines = self._help_lines.get(lang) or "；".join(self._help_lines.values())
        return text.replace("{help_lines}", lines).strip()
