"""Hints that say little alone and much together: a high place and the edge, pills and a number.

`guard.py` holds the wordings that settle a message by themselves. People at risk mostly say it
sideways, and so does who makes an advance: no list of sentences reaches that. Here each concept is
a set of words, and a rule names the concepts that must meet, in any order, within one stretch of
a message. A message about a novel, a game or a doctor's visit is left to the model.
"""

# ruff: noqa: E501 (one concept a line)

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

_STRETCH = 120
"""Characters within which concepts belong together; stretches overlap by half."""


_Rule = tuple[tuple[str, ...], ...]
"""Concepts that mean it together; of each inner tuple's names any will do."""


def _rules(text: str) -> tuple[_Rule, ...]:
    """One rule a line; `a b|c` reads: a, and b or c."""
    return tuple(
        tuple(tuple(names.split("|")) for names in line.split())
        for line in text.strip().splitlines()
    )


# Someone of the person's own life; who is at risk, and who does the harm.
_KIN = r"老公|丈夫|男朋友|男友|前男友|前夫|对象|老爸|爸爸?|父亲|妈妈?|母亲|继父|后爸|养父|继母|后妈|公公|婆婆|哥哥?|姐夫|叔叔?|舅舅|舅|教练|房东|老婆|媳妇|女朋友|女友|前妻|那(?:个)?男的"
_KNOWN = rf"朋友|闺蜜|同学|同桌|室友|舍友|同事|网友|邻居|前任|妹妹?|姐姐?|弟弟?|孩子|儿子|女儿|表[哥弟姐妹]|学生|哥们|兄弟|战友|阿姨|姑姑?|姨|奶奶|爷爷|外婆|外公|姥姥|姥爷|老师|老人|工友|同乡|表哥|表姐|{_KIN}|他|她"
_NUMBER = r"(?:[一二两三四五六七八九十百几\d]+多?)"

_RISK_CONCEPTS = {
    "me": r"我|自己|俺|咱",
    "other": rf"(?:{_KNOWN})",
    "now": r"今[晚夜天]|现在|此刻|马上|待会|等会|等下|明天|今后|刚刚?|已经|最近|这几天|又",
    # --- means, and what is done with them
    "poison": r"农药|百草枯|敌敌畏|老鼠药|毒鼠强|除草剂|杀虫剂|洗厕灵|洁厕|氰化|消毒液|84|漂白|水银|汽油|洗衣液|清洁剂|甲醇|防冻液|胰岛素|硫酸|毒蘑菇|毒鼠|砒霜|毒药",
    "drank": r"[喝吞吃灌抿咽](?:了|下|进|过|一)|下去|打(?:了|进)|打开|味道|灌进|兑",
    "sleeping": r"安眠药|安定片?|佐匹克隆|思诺思|安眠",
    "lethal": r"致死|(?:多少|几|[一二三四五六七八九十\d]+)[片颗粒瓶].{0,6}(?:会死|能死|就死|死人|醒不|够死)|死得?(?:快|不痛|舒服)",
    "laidout": r"翻(?:了)?出来|堆[在满]|排好|排成|一[颗粒片]一[颗粒片]|数(?:好|了)[^，]{0,4}[颗粒片]|摆成",
    "plea": r"报警|救我|求你|求求|帮我叫|联系警",
    "swallowed": r"(?:吃|吞|喝|咽|灌)(?:下去|进去|完|光)了",
    "fading": r"眼皮|(?:越来越|开始|有点|好)(?:困|晕|冷|麻|模糊)|救护车|来不及|不后悔|看不清|等着(?:它)?(?:睡|起)",
    "fuel": r"汽油|煤油|打火机|点火",
    "fuelat": r"后备箱|身上|浇|泼|倒(?:在|满)",
    "burn": r"打火机|烟头|圆规|针|玻璃|指甲|刀|刀片|热水|开水",
    "skin": r"(?:按|烫|扎|戳|划|刺|抠|滴|浇|放)(?:在|到|进)?.{0,3}(?:手|胳膊|腿|皮肤|肉)|往(?:手|胳膊|腿|皮肤|肉|身)|扎完|烫完|划完",
    "sleeve": r"护腕|长袖|袖子|袖口|手链|纱布|毛巾|创可贴|绷带",
    "unseen": r"(?:不能|不敢|不让|不想|怕)(?:给|让|被)?(?:人|别人|谁|他们|爸|妈)?(?:看|发现|知道)|遮|盖|挡|渗|湿透了?血|红了|缠",
    "wishgone": r"像.{1,5}一样(?:关掉|熄灭|消失|散|化|蒸发|停)|(?:有|给)我?(?:个|一个)?[^，]{0,3}(?:关机键|删除键|按钮|开关).{0,6}(?:把自己|关掉|结束|消失|按下)|(?:车祸|绝症|癌|意外|重病|雷|陨石|车|飞机).{0,6}(?:撞|劈|砸|带走|死)?(?:就好|多好|该多好|算了|最好)|羡慕.{0,8}(?:绝症|癌|死(?!了)|走了的|不在|车祸|睡过去|生病)|不看(?:车|红灯)|撞上就撞上|变成.{0,6}(?:尸体|骨灰|灰尘|一缕烟)",
    "tried": r"试过(?:了|一?次|两次|好几次)?[^，]{0,4}(?:没(?:有)?(?:成功|死)|失败|被救|救回)|没(?:能)?死成|(?:又)?(?:被)?(?:救|抢救)(?:回|过)来(?:了)?.{0,6}(?:又|还|干嘛|为什么|恨|后悔)|上次(?:没|失败).{0,8}(?:这次|下次)|下次不会(?:再)?(?:失败|了$)",
    "before": r"(?:岁|年底|生日|月底|周末|过年|冬天|春天|毕业|天亮)(?:之)?前.{0,5}(?:结束(?!了?(?:考|工作|项目|课|战))|走(?!到|完|进)|了断|消失|离开)|先走一步|走在(?:你|爸|妈)?.{0,3}前[头面]|白发人",
    "affairs": r"相册|聊天记录|日记|信封|散伙饭|最后一顿|放生|存折|工资卡|存款|房产|墓地|墓碑|寿衣|遗照|骨灰|遗产|交接|手续|债|欠的钱",
    "settled": r"删(?:了|干净|光|空)|清(?:了|空|干净)|分(?:了|好|给|完)|写着名字|每个人|没有以后|早晚会|他们(?:翻|发现|看)|他们不知道|不难过|看好|选好|买好|挺便宜|还(?:完|清)|拖累|最后一(?:遍|次|回)|交接完",
    "act": r"(?:(?<![导扮上出])演|假装|装[得作出成]|戴着?面具|强颜|硬撑).{0,5}(?:正常|开心|没事|快乐|坚强|面具|欢笑)|演不(?:动|下去)|装不(?:动|下去)",
    "breathing": r"(?:为什么|为何|凭什么|干嘛|怎么)(?:还)?(?:要)?(?:在这里?|还在|活|呼吸|存在)|(?:我的)?存在(?:就是|只会|本身|没|只|是).{0,6}(?:堵|错|麻烦|负担|多余|意义|浪费|笑话)",
    "perch": r"空调外机|江堤|堤坝|坝上|站台|黄线|顶[楼层]|天台|楼顶|窗台|护栏|栏杆|桥(?:上|边|栏)|水边|水里|礁石|塔吊|井口|铁轨|悬崖|崖边",
    "resolved": r"鞋(?:子)?(?:脱|放|摆)|脱了?鞋|踩过|越过|跨(?:过|出|上)|坐了.{0,3}(?:小时|一夜|半天|很久|一晚)|门没锁|(?:只)?差一步|一步之|我坐在|哭|再(?:往前|挪)|挪|闭上眼",
    "pumped": r"洗胃|催吐(?!减肥)|抢救|急救室|icu",
    "drug": r"药(?!店|房|学|材|膳|师)|头孢|褪黑素|布洛芬|扑热息痛|对乙酰|泰诺|胶囊|降[压糖]|胰岛素|酒精|安定|佐匹克隆|止疼片",
    "dose": r"(?:吞|灌|吃|喝|服|咽|嚼|塞)(?:了|下|进|完|掉|光|过)*.{0,6}(?:整[瓶盒板]|[半一两几](?:大)?[瓶盒板把]|很多|大把|一堆|几十|十几|全部|所有|剩下|[二三四五六七八九]十多?[颗片粒]|\d\d+[颗片粒])|(?:整|半|两|几|好几|一|大)(?:瓶|盒|板|把|大把).{0,18}(?:吃|吞|喝|灌|服|咽)(?:了|下|完|掉|光|进)|(?:吃|喝|服|吞)(?:药)?过量|(?:吞|吃|喝|灌)(?:了|下)好多|(?:全|一次|一口气|一起|一把)(?:都|性)?(?:吃|吞|喝|灌|咽)(?:了|下|完|光|掉|进)",
    "many": r"(?:[二三四五六七八九几]?十|[二两三四五六七八九]?百|\d\d+)多?[颗片粒]|(?:整|好几|几大?)[瓶盒板把]|(?:一|两)大?[瓶把]",
    "ready": r"拧开|打开了|数好|数了|攒|囤|藏|翻出来|堆[在满]|排好|排成|一[颗粒片]一[颗粒片]|摆成|备好|备齐|备下|买好|买回|买了|买到|准备好|摆[在好]|倒[在进出]|握[着在]|攥|挂[在好上]|系[在好上]|磨|封[好住死上]|试了|闻了|看着它|放在(?:床头|枕|手边|面前|跟前|包里)|就在(?:手|床|抽屉|面前)|(?:喝|吞|吃|灌)了",
    "noose": r"(?<!晾衣)(?<!晒衣)绳子?(?!命)|麻绳|绳套|烧炭|炭(?!烤|笔|黑|水|酸)|煤气|燃气|手枪|猎枪|一氧化碳",
    "blade": r"刀片|美工刀|裁纸刀|小刀|刀子|水果刀|菜刀|剪刀|(?<!一)刀(?!剑|郎|叉|客)|玻璃片|圆规",
    "hidden": r"枕头|床头|被子里|半夜|深夜|睡前|偷偷|藏|没人知道|厕所|浴室|洗手间|手腕|大腿|忍不住",
    # --- hurting oneself
    "cutting": r"(?:割|划|烫|掐|咬|扎|抠|捶|刺|伤害?|打|扇|抽|拧)(?:了|着|伤|破|开)*(?:过)?(?:我)?(?:自己|手腕|腕|胳膊|手臂|小臂|大腿)|(?:添|多|划|割|来|加|拉)(?:了|出|上|下)*[一二两三四五几好](?:条|道|刀)(?!题|菜|路|理|消息)|自残|自伤|自虐",
    "limb": r"胳膊|手臂|小臂|手腕|大腿|腿上|手上|身上",
    "scar": r"疤|新?伤(?!心|感|风|了心)|口子|划痕|刀痕|印子|烫痕|淤青|青一块|紫",
    "conceal": r"没人(?:看|知道|发现)|看不[见到]|不敢穿|长袖|藏|遮|盖住|挡住|别(?:告诉|说)|瞒|骗|说是|不肯说|不让[人我他她]?看",
    "blood": r"(?:都是|全是|好多|满是|一地|看着|看到|见了|有|流了?(?:好多)?)血(?!压|糖|型|脂|缘|统|性|书|丝燕)|(?<!鼻)血(?:一直|流|滴|淌|止不住|渗|珠)",
    "relief": r"舒服|痛快|安静|平静|不(?:那么|太|再)?(?:堵|难受|疼|痛|闷)|轻松|踏实|安心|活着的感觉|才觉得|松[了一]口气|没力气|晕|害怕|怕",
    # --- places
    "high": rf"天台|楼顶|顶楼|窗(?:边|沿|台)|阳台|护栏|栏杆|桥(?:上|边|头|中间|面|栏)|大桥|悬崖|崖边|崖上|{_NUMBER}(?:楼|层)|楼上",
    "ledge": r"天台|楼顶|窗沿|窗台|护栏|栏杆|桥栏|阳台(?:边|外|栏)|悬崖|崖边",
    "edge": r"往下(?:看|跳|掉|坠)|下[面边](?:的|就|全|都)?(?:车|人|路|水|地|树|灯|好|很|真|是)|不[高怕](?!兴|考)|翻(?:过|出|上)|往前(?:一步|再走|迈|走)|迈[出一过]|腿(?:悬|垂|在外)|悬[空着]|(?<!心)(?<!蹦)跳(?!绳|舞|槽|蚤|水|远|高|操|广场|得|了一|个)|坠|掉下去|风(?:好|很|真|有点|太)?[大冷凉]|劝|不(?:肯|愿|想|要)?下来|拉不住|坐[在着到].{0,4}(?:边|外|沿|上)|站[在着到].{0,4}(?:边|外|沿)|爬[上到出]",
    "water": r"水库|江[边里水]|河[边里水]|湖[边里水]|海[边里水]|池塘|水里|跳江|轨道|铁轨|火车|地铁|车流|马路中间|高速",
    "sink": r"走[进到](?:去|水|里|江|河|湖|海|深|中间)|沉(?:下|到|进)|(?:不|应该不).{0,2}(?:太)?(?:冷|疼|痛)(?!不)|开进|冲[进过]去|躺[上在]|(?<!心)跳(?!绳|舞|槽)|撞[上死过]|闭(?:上)?眼.{0,6}(?:冲|走|跳|撞)|(?:一|往前)(?:步|迈).{0,5}(?:结束|没|解脱|好)|温柔|怕(?:自己|我)|沉没",
    # --- the wish
    "deed": r"自杀(?!率|式)|自尽|轻生|寻短|寻死|求死|上吊|割腕|割脉|跳楼(?!价|大|机)|跳河|跳江|跳桥|跳轨|卧轨|跳海|跳湖|烧炭|服毒|吞药|投河|投湖|投江|自缢|殉情|自我了断|了断自己|紫砂(?![壶茶锅杯煲])|结束生命|走绝路|绝路|安乐死",
    "want": r"想(?!知道|问|象|到|起来|你)|要(?!是|不要)|打算|准备|决定|计划|考虑|念头|冲动|忍不住|差[一点]点?|试过|练习|干脆|不如|说|闹|威胁",
    "die": r"(?<!笑)(?<!饿)(?<!累)(?<!气)(?<!热)(?<!困)(?<!冷)(?<!吓)(?<!烦)(?<!吵)(?<!疼)(?<!羞)(?<!美)(?<!急)(?<!忙)(?<!难)(?<!丑)(?<!养)(?<!渴)(?<!酸)(?<!该)(?<!晒)(?<!爱)(?<!甜)(?<!痒)(?<!尬)(?<!电)(?<!恨)(?<!堵)(?<!闷)(?<!咸)(?<!贵)(?<!怕)死(?!党|机|心|板|记|活|角|循环|鬼|线|磕|鸭|宅|忠|粉|我了|了你|你了|猫|相|结|对头|皮|穴|海|掉的?(?:花|鱼|手机))|去世|离世|离开(?:这个)?(?:人)?(?:世|世界|人间)(?!杯)|(?:想|好想|真想)(?:4|寄|噶|嘎)了?|没命|丧命|不活",
    "release": r"解脱|(?<!忘)了结(?!婚|果|束)|了断|一了百了|长眠|永远睡|一睡不|睡过去|消失(?!的)|重开(?![局盘号])|退出人生|下线人生|蒸发|不存在|融化掉|去那边|去找(?:奶奶|爷爷|外婆|外公|姥姥|姥爷|妈妈?|爸爸?|他|她)|去陪(?!护|床|诊|伴|读|考|练|产|夜|同|客|酒|聊|玩)|见(?:奶奶|爷爷|外婆|外公)",
    "gone": r"我(?:真|要是|如果|哪天|突然|就|万一|以后)*(?:不在|走|没|死|消失|离开)(?:了|之后|以后|的话|的那天)(?!.{0,2}(?:拜|再见|明天|下次|去|回|先|问题|关系|事|家|公司|学校|钱|电))|(?:没有|没了|少了?|没生(?:过)?)我(?:的话|大家|他们|你们|她|他|爸|妈|家|这个|这)?|我不存在|我(?:在不在|活不活|死不死)|有没有我|有我没我|我这(?:种|样的)人(?=.{0,4}(?:活|就|死|不|多))",
    "same": r"一样(?!的)|没(?:什么|啥)?(?:差|区别|不同|影响|两样)|无所谓|更好|好过|轻松|幸福|高兴|解脱|省心|清净|松(?:一)?口气|没人(?:会)?(?:发现|在意|难过|在乎|记得|哭)|别(?:哭|难过|找我)|浪费|添(?:麻烦|乱|堵)|照样",
    # --- putting life in order
    "note": r"遗[书言]|绝笔|(?:写|留|录|留下|定时|压).{0,8}(?:信(?!用|息|号)|字条|纸条|视频|邮件|录音|段话)|信.{0,3}(?:写|录|留)|(?:写|留)(?:给|了).{0,5}(?:爸妈|妈妈?|爸爸?|父母|家人|孩子|大家|每个人|你们)",
    "arranged": r"(?:猫|狗|宠物|手办|账号|吉他|琴|书|衣服|衣柜|东西|首饰|房|钱|存款|游戏|花|保险|银行卡|密码|相机|电脑).{0,12}(?:送|托|留给|给|分|清空?|退|处理|交代|寄养|转给|卖)(?!我|你)[^，]{0,6}了|(?:交代|安排|处理|收拾|整理)(?:好|完|清楚|妥)(?:了|的)?(?:后事|一切|所有|都)?",
    "unneeded": r"用不(?:上|着|到)了|不需要了|没(?:什么|有|啥)?(?:可)?(?:牵挂|留恋|遗憾|舍不得|放不下)|(?:以后|往后|今后|反正|从此|这样).{0,6}(?:不用|再也|没)(?!.{0,3}(?:加班|上班|早起|排队))|放心了|不在了|(?:可以|能|就)(?:安心|放心)?(?:地)?(?:走|离开)了|等我|不用等我",
    "plain": r"(?:不|卜|8|bu)(?:太|怎么)?想(?:再)?(?:活|huo)了?|[活撑熬]8下去|自(?:sha|s$|鲨|鯊)|(?:想|不如|干脆)(?:去|就)?(?:si|die|鼠|狗带)(?:了|$|一|的|啊|算)|紫砂(?:的|念头|想法|了)|想(?:要)?重开(?![一局盘号游])"
    r"|(?:我|他|她|真是|早就|已经)(?:都|真|就|早就|已经|是|也)*活(?:够|腻|累)了|苟活|多活一(?:天|秒|日)|不配活|没脸活|怎么(?:还)?(?:没死|不死|还活着)|死的(?:应该|怎么不|为什么不|为何不|本来?该)是?我|(?:让|求你?)(?:我|杀)(?:去)?(?:死|了我)(?:吧|算)?|我(?:真|就|才)?该(?:去)?死(?!心|磕)"
    r"|(?:老天|上天|阎王|死神|佛祖|菩萨|上帝|奶奶|爷爷|外婆|外公).{0,8}(?:收(?:了|走)我|带我走|接我走|带走我|把我(?:带|收|接)走)|活到.{1,6}(?:就(?:够|行|好|算)|为止)|(?:跳|掉)下去(?:会|是不是|能|应该|就|痛|疼)|多高.{0,4}(?:死|跳)"
    r"|饿死自己|把自己(?:饿|闷|淹|吊|勒|烧|杀|捅|冻)|放弃(?:治疗|生命|自己的命)|拔(?:了)?(?:管|氧气)|哪种(?:死法|方式|方法).{0,6}(?:痛|疼|快|体面|干净)|下辈子(?:不|别|再也不)(?:做|当|来|想|投)|不想(?:再)?(?:做|当)人(?:了|$)|(?:我的?|自己的?)(?:骨灰|后事|葬礼|遗照|墓地|墓碑)(?:.{0,6})(?:撒|选好|拍好|想好|不用|别|简单|帮我)"
    r"|(?:不想|不愿)(?:再)?(?:存在|呼吸)|(?:睡|闭眼|闭上眼).{0,6}(?:再也不|就不|不再|永远不)(?:用|要|会)?(?:醒|睁)|一睡不[醒起]|长眠不醒|没(?:有)?活(?:下去|着)?的?(?:理由|勇气|意义|必要|欲望)|活(?:下去|着)的?(?:理由|勇气|欲望).{0,4}(?:没|找不到|都没)",
    "thanks": r"谢谢(?:你|大家)|对不起|抱歉|保重|别难过|别怪|照顾好|要好好的|好好活|好好过|添麻烦",
    "last": r"最后一(?:条|句|晚|夜|面|眼|封)|(?:以后|今后|往后)(?:就)?(?:不会|没有|没)(?:再|我)|不会再(?:来|打扰|上线|出现|说|麻烦)|再也不(?:会)?(?:打扰|麻烦|出现)|我(?:先)?走了.{0,4}(?:别|真)|别(?:来)?找我",
    "stalked": r"(?:跟踪|尾随|一路跟着|堵)我|我(?:现在|正)?被(?:拐|绑|囚|关)|逃不(?:出|掉)|出不去.{0,6}(?:救|打|锁)",
    "left": r"压在|放[在进](?:.{0,6}[下里上])|抽屉|枕头(?:下|底)|写好|写完|录好|定时",
    "parents": r"爸妈|妈妈?|爸爸?|父母|家人|家里|每个|大家|所有人|孩子|女儿|儿子|他们",
    "limit": r"(?:不(?:想|打算|愿|准备)(?:再)?|活不|撑不|等不|熬不)(?:过|到|活到|看到|等到|过完)(?:完|了)?(?:这个?|今|明|下个?|后天|过)?(?:月|年|冬|夏|春|秋|三十|四十|毕业)|等.{1,14}(?:走|大|业|婚|清|完|好)了?[^，]{0,3}我(?:也|就|便|可以|能|终于)+(?:安心|放心|可以|能)*(?:走|死|离开|解脱|去)(?:了|$)",
    "postnatal": r"抑郁|产后|躁郁|双相",
    "togo": r"一起(?:走|死|去)|带(?:着)?.{0,4}(?:走|死)|抱着.{0,4}(?:走|跳|死)",
    "farewell": r"下辈子|下一世|来世|来生|永别|诀别|天上见|另一个世界|那个世界|好好(?:的|活|照顾|过)|替我|帮我照顾|最后一(?:次|晚|夜|天|面|条|句|顿|眼)|谢谢你(?:们)?(?:一直|这么久|陪|这些年|这段)|别(?:找|等|怪|想|救|管|惦记)我|不(?:用|要|必)(?:找|救|管|惦记)我|去(?:了)?很远的地方|对不起|道歉|再见|告别|道别|添麻烦|不(?:会)?再打扰|不打扰",
    "silence": r"没(?:有)?(?:声|动静|反应|回|消息)|不(?:出声|应|开门|接|回消息|回信息|说话|吭声|醒)|叫不[应醒]|下线|失联|联系不上|打不通|关机|人不见|不见了|找不到[人他她]|锁在|反锁|别找|没下楼",
    # --- no morning, no reason
    "morning": r"醒(?!目|悟|酒|面|狮)|睁(?:开)?眼|天亮|明天(?!见|要|去|再聊|早上?要|下午|晚上)|早上|(?:下|这)个?(?:月|年)|过年|生日|以后的日子|往后|未来|以后|继续",
    "never": r"不(?:想|愿|要|用|必|敢|再|打算|希望|期待)(?:再|会|有|过|看|等|见|醒)*|别(?:再)?|再也不|永远(?:不|别)|怎么又|为什么(?:还)?(?:要|会)|没(?:有)?(?:了)?(?:明天|以后|未来)|没有尽头|找不到|看不到|等不到",
    "reason": r"(?:没|找不到|想不出|有什么|没什么|没啥|看不到|失去)(?:了|有|出|一个|什么|任何|过|再|半点)*(?:理由|动力|意义|意思|盼头|希望|牵挂|留恋|活路|出路|奔头|寄托|念想|值得)",
    "life": r"活(?!动|儿|泼|字|跃|力|该|水|血|塞|页|宝|现|络|虾|鱼)|人生|这辈子|一辈子|世界|世上|人间|日子|每天|每一天|生命|天天|存在",
    "weary": r"(?:太|好|真|很|实在|真的|只是|都|就|也|全|号)(?:的|是)*(?:累|苦|痛苦|绝望|煎熬|折磨|受罪|难熬|没劲)(?!死|哦|了一天|瘫|的?(?:药|咖啡|瓜|茶|菜))|煎熬|折磨|受够|绝望|行尸走肉|没(?:有)?(?:什么|啥)?(?:意思|意义|盼头|劲|希望)|看不到(?:光|头)|没有光|走到尽头|无路可走|走投无路|生不如死|撑不|熬不|扛不|过不下去|走不下去|坚持不下去|不下去了",
    "burden": r"累赘|拖累|多余|废物|包袱|垃圾(?!桶|站|袋|分类|车|食品|堆|短信|邮件)|不配(?:活|存在|被)|浪费(?:粮食|空气|米)|负担|讨厌(?:我)?自己|恨(?:我)?自己|恶心自己",
    "only": r"(?<!说)我(?:就|真|果然|活着|这种|太|不过|觉得|觉着|对|只会|一直|总)*(?:就?是|像|拖累|多余)(?!不是)|自己(?:就?是|像|很|好|真)|拖累(?:了)?(?:你|他|她|爸|妈|家|大家|孩子|别人)|(?:讨厌|恨|恶心)(?:我)?自己|不配(?:活|存在)",
    "notmissed": r"没(?:有)?(?:人|谁)会(?:想|记得|在意|在乎|发现|难过|伤心|哭|找|注意)(?!我的?生日)|谁(?:会|都不会|也不会)(?:在意|在乎|想念?|发现|难过|记得|为我)",
    "unable": r"(?:撑|熬|扛|坚持|走|过|活|挺)不(?:下去|住|过去|动)(?:了|啊|$)|不想(?:再)?(?:撑|熬|扛|坚持|挣扎|努力|走)(?:下去)?(?:了|$)",
    "every": r"每天|一直|天天|总",
    "nolight": r"(?:看不[到见]|没有)(?:一点|半点|任何)?(?:光亮?|希望|未来|出口|尽头)|没有尽头|(?:人生|日子|未来|前面).{0,4}(?:黑|没(?:有)?(?:路|光|希望))|不想(?:要|有|再有|面对)(?:了)?(?:明天|以后|未来)|明天(?:最好)?(?:别|不要|不用)(?:再)?来",
    "truly": r"真的|这次|彻底|再也|每天|实在|一个人|好累|太累|人生|活|没人|走到|尽头|求",
    # --- violence, captivity, abuse
    "kin": rf"(?:{_KIN}|他(?!们)|她(?!们)|他们|她们|那个?(?:男|女)人|有人)",
    "blow": r"(?:打|揍|踹|踢|掐|勒|扇|砸|砍|捅|按|摁|拽|揪|拖|推(?!门)|烧|烫|咬|抽)(?:了|着|过|得|断|伤|死|住|晕|倒|下|破|在)*(?:我(?!电话|手机|的?电话|一下手心|的)|妈|孩子|弟|妹|她(?!电话)|脸|头(?!发)|门|墙|巴掌|耳光|脖子|肚子)|[打踹砸揍掐](?:.{0,2}(?:断|肿|青|紫|骨折|流血|出血|晕))|头按|[抓拽揪]着?(?:我|她)?的?头发|动手(?!术|做|写|吧|能力|机)|家暴|(?:皮带|拳头|棍子|酒瓶|衣架|鞋|擀面杖|椅子).{0,3}(?:抽|打|砸|揍|往)(?:我|她|妈|孩子|弟|妹|人)|巴掌|耳光|往死里|拿着?刀|刀架|殴打|拳打脚踢|泼我|(?:开水|烟头|烙铁|热油)[^，]{0,3}(?:泼|烫|浇|按)|(?:拿|举|拎|提)着?(?:锤|斧|棍|刀|枪|砖)|(?:刀|剪刀)(?:架|抵|顶)|(?:嘴角|眼角|眉骨|耳膜|鼻梁)(?:裂|破|肿|断|青)|往死里?|又拿(?:皮带|棍|刀)",
    "hurt": r"流血|骨折|肿|淤青|青了|紫[的了]|伤(?!心|感)|疼|喘不|晕|医院|验伤|血|躲|藏在|逃|跑出来|不敢|害怕|好怕|怕(?!热|冷|黑)|救|哭|不肯?放|又|刚|昨[晚天]|今[晚天]|每次|天天|现在|喝[醉多]|醉|一天只给|饿|泡|报警|求你|还说|孩子",
    "captive": r"不(?:让|准|许)(?:我|她)(?:出|走|离开|回家|见人|上班)|没(?:让|准|许)(?:我|她)出|锁(?:在|起来|着我)|关(?:在(?!一起|外)|起来|着我|了我)|跟踪|尾随|监视",
    "seized": r"(?:手机|身份证|护照|证件|钥匙|银行卡).{0,8}(?:收|没收|拿走|扣|砸|抢|藏)",
    "threat": r"(?:要|就|敢|再).{0,8}(?:杀(?!青|价)|弄死|砍死|打死|掐死|一起死|同归于尽|毁了我|泼|捅)|同归于尽|威胁|死给|(?:把|将)(?:我|她|我们|我和.{1,3})[^，]{0,2}(?:解决|弄|做|干)掉|杀(?:了|光)?(?:我|孩子|我全家|我们)|陪葬|灭口",
    "forced": r"强[奸暴]|性侵|猥亵|侵犯了?(?:我|她)|(?:他|叔|爸|父|哥|师|舅|练|板|夫|友|伯|爷).{0,10}(?:摸我|碰我(?!的?书)|脱我|压(?:在|着)我|逼我(?:跟|和|做|脱|拍|陪|睡)|强迫我|进我(?:的)?(?:房|屋|被)|偷看我|亲我.{0,6}(?:怕|恶心|不敢|推))",
}

_RISK_RULES = _rules(
    """
    dose drug
    dose poison
    poison ready|drank
    sleeping ready|dose|many
    poison|drug|sleeping|me lethal
    pumped drug|deed|poison|sleeping me|other
    plain
    drug laidout
    captive plea
    swallowed fading
    fuel fuelat me|want
    burn skin
    sleeve unseen me
    wishgone
    tried
    before
    affairs settled
    perch resolved me|other
    thanks last
    other silence thanks
    kin stalked
    drug many ready
    noose ready
    blade hidden
    blade ready|cutting hidden|hurt|relief me
    cutting me|hidden|conceal
    limb scar conceal
    blood relief
    blood silence
    ledge edge
    high edge me|now
    water sink
    deed me|other want|now
    die me want life|never|release|farewell
    release me want life|weary|never
    release other farewell|silence|now
    gone same
    gone farewell
    note farewell|gone|silence|unneeded
    note left parents
    limit
    postnatal togo|deed|release
    arranged unneeded
    farewell silence other
    other release|deed
    silence note|drug|blade|poison|blood
    silence farewell
    other blade die|deed|weary|want
    kin blow hurt
    kin captive hurt|blow|threat|seized
    kin threat
    captive threat|blow
    forced
    """
)

# Tired of life, nothing immediate said: she answers kindly and names whom to talk to.
_WEARY_RULES = _rules(
    """
    morning never life|weary|reason
    nolight me
    act never|weary|every
    breathing
    reason life|morning me|life
    weary life
    burden only
    notmissed me
    unable truly
    """
)

_RISK_ELSEWHERE = re.compile(
    r"小说|电影|电视剧|剧情|剧本|剧里|书里|书上|结局|主角|角色|反派|红楼|那一?回|第.{1,4}回|章节|历史|皇帝|统计|数据|论文|新闻|诗人|作家|词人|传记|罗密欧|游戏(?!账号)|副本|排位|队友|boss|关卡|动漫|追番|歌词|段子|剧本杀|狼人杀"
    r"|切菜|削苹果|削皮|做饭|(?<!是)猫(?:把|抓了|挠)|被猫|蚊子|打针|抽血|献血|体检|纹身|果树|菜地|种菜|除草|残留|烧烤|烤肉|快递|每天.{0,3}(?:吃|服).{0,3}药|按时吃|行李|捆|危机干预|学心理|心理课|剧里|女主|男主|绿植|拖地|洗衣服|晾(?:衣服|被)"
    r"|蹦极|跳伞|滑雪|爬山|登山|壮观|风景|夜景|星星|晒太阳|拍照|日出|日落|烟花|钓鱼|散步|野餐|跑步|减肥|胖|健身|甩卖|打折|打牌"
    r"|哈哈|hhh|嘿嘿|嘻嘻|233|开玩笑|旧衣服|小时候"
)
_WEARY_ELSEWHERE = re.compile(
    r"加班|作业|甲方|ddl|考试|考研|复习|上班|老板|工作|论文|搬家|客户|逛街|爬|项目|公司|老师说|背单词|跑|练|创业|孩子|娃|带货"
)


def _compile(concepts: Mapping[str, str]) -> dict[str, re.Pattern[str]]:
    return {name: re.compile(pattern) for name, pattern in concepts.items()}


_RISK_ENGLISH = {
    "me": r"\b(?:i|i'm|im|i've|ive|me|my|myself)\b",
    "other": r"\b(?:friend|roommate|sister|brother|mom|mother|dad|father|wife|husband|boyfriend|girlfriend|partner|son|daughter|kid|he|she|he's|she's|him|her|they|someone|guy)\b",
    "took": r"\b(?:took|taken|swallowed|downed|drank|ate|swallowing|taking|counted|counting|saved up|stockpil\w+|bought|loaded|tied|have|got|holding)\b",
    "means": r"\b(?:pills?|tylenol|paracetamol|ibuprofen|xanax|meds|bleach|pesticide|antifreeze|rope|noose|gun|pistol|razors?|blades?)\b|sleeping pills|charcoal",
    "many": r"\b(?:whole|entire|all|bottle|handful|too many|\d\d+|loaded|dozens?|neck|drawer|ready|tonight|tree|nerve|sleepy|twenty|thirty|forty|fifty|sixty|hundred|an hour ago)\b",
    "cut": r"\bcut(?:ting|s)?\b(?! (?:off|down|out|the (?:cake|grass|crap|bread)))|\b(?:burn(?:ing|ed)?|hit(?:ting)?|scratch(?:ing|ed)?) my(?:self| arms?| legs?| thighs?)",
    "flesh": r"\b(?:again|wrists?|arms?|thighs?|myself|herself|himself|deep|bleed\w*|scars?)\b",
    "place": r"\b(?:bridge|roof|rooftop|ledge|balcony|cliff|tracks|railing|overpass|window)\b",
    "edge": r"\b(?:standing|sitting|jump(?:ing)?|edge|over|step|fall|train|feet|feel|down|won't come)\b",
    "letter": r"\b(?:goodbye|good-bye|letters?|notes?|farewell|last (?:text|message|night|time|day))\b",
    "final": r"\b(?:wrote|written|won't (?:pick|answer)|not answering|gone|everyone|everybody|after i|when i'm gone|gun|pills|forgive|sorry|missing|tonight|gave)\b",
    "farewells": r"said (?:all )?my goodbyes|(?:won't|wouldn't|not going to|never going to|don't (?:see|think)) .{0,16}(?:see (?:his|her|my|their) (?:next )?birthday|mak(?:e|ing) it (?:to|past|through))|(?:knife|gun) to (?:my|her|his) (?:throat|head|neck)|bleeding (?:out|from)|(?:stop|stopped) existing|goodbye (?:forever|everyone|world)|(?:by the time|when) you (?:read|see) this|don't try to (?:find|save|stop) me",
    "notme": r"\b(?:if i (?:wasn't|weren't|was not|were not|died|was gone|were gone|disappeared|never|vanished)|without me|when i'?m gone|(?:never|hadn't) been born|never (?:existed|wake|woke))\b",
    "better": r"\b(?:better|happier|happy|notice|care|relieved|easier|fine|miss)\b",
    "nothing": r"\b(?:nothing|no one|nobody|no (?:reason|point|way out|future|hope))\b|can't see (?:a|any)|don't see (?:a|any|the)|what's the point|tired of|sick of|so done with|can't (?:do|take|go on)|don't want to (?:be|exist|live|wake|go on|do)",
    "life": r"\b(?:left for me|to live|living|alive|life|exist(?:ing)?|going on|go on|waking|wake|here anymore|anymore|tomorrow|keep going|being me)\b",
    "beat": r"\b(?:hits?|hitting|beats?|beating|chok(?:es|ed|ing)|strangl\w+|punch\w*|kick\w*|slap\w*|threaten\w*|locked me|won't let me|rap(?:ed|es)|forc(?:ed|es)|touch(?:es|ed) me)\b",
    "victim": r"\b(?:me|my (?:mom|mother|sister|brother|kids?))\b",
    "afraid": r"\b(?:hiding|hide|scared|afraid|drunk|kill|bleeding|bathroom|leave|again|police|last night|every night|bruis\w+|knife|gun)\b",
    "dead": r"\b(?:die|dead|death|kill(?:ing)? (?:my|her|him)self|suicid\w+|unalive|kms|overdos\w+|disappear forever|end it|not wake up|never wake up)\b",
    "wish": r"\b(?:i (?:just )?(?:want|wish|hope|should|could|might|will)|i'm going to|gonna|wanna|thinking (?:about|of)|says? (?:he|she)|said (?:he|she)|rather|plan(?:ning)?)\b",
}
_RISK_ENGLISH_RULES = _rules(
    """
    took means many
    cut flesh me|other
    place edge me|other
    letter final me|other
    beat victim afraid
    wish dead
    farewells
    """
)
_WEARY_ENGLISH_RULES = _rules(
    """
    notme better
    nothing life
    """
)
_RISK_ELSEWHERE_ENGLISH = re.compile(
    r"\b(?:novel|movie|film|book|game|boss|level|character|story|poem|lol|lmao|haha|laugh\w*|play|show|episode|paper|cut (?:myself|my (?:finger|hand)) (?:shaving|cooking|while|chopping|slicing|on)|paper cut|photo|view|sightseeing|hair|budget|beat(?:s)? me (?:at|in|to))\b"
)

# --- advances

_ADVANCE_CONCEPTS = {
    "you": r"你|妳|妹妹|姑娘|颦儿|黛玉|小娘子|美人|宝贝|宝儿|小妖精|娘子",
    "we": r"我们|咱们?|陪我|跟我|和我|一起|我和你|我跟你|今[晚夜]|来",
    "private": r"(?<!挺)(?<!扩)胸(?!针|怀|口(?:闷|疼|痛)|前|有|襟|闷|腔|花|肌)|奶子|乳(?!腺|酪|胶|名|牙|白|糖|液|清)|臀|屁股|大腿|小腹|锁骨|下体|私处|(?<![你我他她])那里|[你她]那里(?=[^，。]{0,2}(?:软|湿|大|小|紧|痒|白|粉|毛|长什么))|敏感|三围|罩杯|肉体|玉体|胴体|酥胸|腰(?!疼|痛|酸|围巾|包|椎|鼓|果)|身材|皮肤(?!科|病|干|过敏|痒)|肌肤|身子(?!骨|弱|好|不好|可|怎|如何|虚|重|爽|还)|身体(?=$|的?(?:曲线|味道|每))|光溜溜",
    "bare": r"脱(?!发|单|口|离|稿|贫|销|水|险|节|身|臼|粉|敏|脂|毛)|解开(?!心|谜|误|绳|难)|扒(?:光|掉|了你|下来|开你)|撩起|撕(?:开|掉|碎)|褪|掀(?:开|起)|松(?:开|一松|了)|宽衣|不穿|没穿|别穿|光着|一丝不挂|赤裸|裸(?!辞|眼|色|妆|婚|考|泳)|只穿|湿身|剥光",
    "clothes": r"衣(?:服|裳|襟|带|衫|物|扣)|外衣|裙|裤|肚兜|内衣|亵|腰带|扣子|丝袜|黑丝|胸罩|一件一件|衣|睡袍|鞋袜|光",
    "show": r"看|瞧|拍|发[张我给]|照片|图|视频|自拍|给我|让我|形容|描[写述]|讲讲|说说|告诉我|详细|慢[慢一点]|样子|吧$|好不好|好吗|嘛|呗",
    "photo": r"照片?|图片?|视频|自拍|拍一?[张段个]|发一?[张段个]",
    "sly": r"私[房密]|性感|诱人|撩人|露骨|火辣|福利|大尺度|没穿|不穿|只穿|睡衣|睡裙|泳装|内衣|肚兜|丝袜|身材|大胆|外衣|锁骨|腿|洗澡|湿",
    "touch": r"摸|揉|捏|舔|吻|咬(?!牙|文|人|住牙)|闻(?!到花|一?闻花|见|名|所|言)|抚(?!琴|养|州|慰|恤|顺|平)|蹭|亲(?!爱|人|戚|自|切|眼|手|生|近|情|妈|爹|娘|友|口|历|朋|妹|哥|姐|家|事|戏|密|子|力)|贴着|压(?:在|着|倒)|伸(?:进|到|入)|按(?:在|倒)|搂|含(?:住|着)|滑(?:进|到|向|过)|扑倒|推倒(?!重)|往下",
    "bed": r"床(?!单|前明|头柜|位|榻上|上用|垫|太)|被窝|枕(?:边|上)|躺下|怀里|身下|腿上|房里|开(?:个|间)?房(?!间门|门|产|地)|酒店|宾馆|浴[室缸桶]|洗澡|沐浴|澡(?!堂)",
    "lying": r"(?:钻|进|爬|躺|来|上)(?:到|进|上|在)?我(?:的)?(?:被窝|被子|床)(?:上|里)?(?:来|吧|嘛|呗|好|$)|(?:钻|进|爬|上)(?:到|进|上|在)?你(?:的)?(?:被窝|被子|床)|床上的?(?:细节|事|样子|功夫)|把你[^，]{0,3}(?:扔|按|压|抱)(?:到|上|在)(?:了)?床",
    "bath": r"洗澡|沐浴|泡澡|冲凉|入浴",
    "watch": r"[看瞧]着?你|让我|旁边|洗哪|一起|陪|进来|帮你[洗搓擦]|偷看",
    "euphemism": r"(?:快乐|开心|舒服|刺激|快活)的(?:事(?!情?(?:分享|吗))|运动)(?=.{0,4}$)|下不了床|蹭蹭|(?:蹭|就).{0,4}不进去|会不会口|口一下|(?:解决|有)(?:一?下)?生理|特殊(?:服务|癖好)|激情(?:戏|一夜|片)|床伴|炮友|黄花闺女|验(?:一验|验|身)(?!证)|共浴|同浴|赤诚相见|坦诚相见(?=.{0,3}(?:不穿|光))|裸裎|男女(?:那点|之)事|大腿根|耳垂|耳边喘|摸一把|(?:狠狠|好好)地?要你|报答我(?=.{0,3}身)|身体(?:来)?(?:报答|还(?=你|我|债|账|钱|情|$|[吧嘛呀])|偿|抵)|心里也想要|(?:摸|玩)过自己|(?:今晚|闺房|房里|夜里).{0,8}留(?:个|着)?门|你湿了|湿了(?:没|吗)|裸女|出浴|脸埋|埋(?:进|在)你|身上有几|又软又香|又香又软|在我身下|长没?长?毛|粗暴.{0,6}(?:温柔|床)|娇躯|尤物|初夜|猜我(?:现在)?(?:的)?手(?:现在)?(?:放|在哪)|手放在哪|第一夜|狎|(?:你|和).{0,3}睡过|s3x|luoti|zuoai|翻(?:你的?)?牌子|同床共枕|同衾|共赴巫山|开苞|破处|那啥|不可描述|爱爱|嘿咻|为爱鼓掌|造人(?!工)|造小人|给我生(?:个)?(?:孩子|娃|儿子|宝宝|猴子)|交公粮|(?:本|三)垒|双修|(?<![0-9])3p(?!m)|喂饱我|生理需[求要]|欲求不满|吃(?:你|我|姑娘)(?:的)?豆腐|舌吻|湿吻|法式(?:热)?吻|种草莓(?!的|苗|地|大棚)|吹箫给|亲遍|摸遍|吻遍|玉足|小嫩|裸睡|(?:坏坏|羞羞|脸红心跳|见不得人|不正经|没羞没臊)的(?:事|游戏|话)|欺负你一|把你(?:吃|办|要|睡|扒|剥|压|推倒)了?|(?:身体|身子|肉)(?:都)?给(?:我|爷|了我)|以身相许(?=今|吧|给我|如何)|耍流氓|擦边|嗯嗯啊啊|下流|好色(?!彩)|浪一|(?:想|要)(?:你|跟你|和你)(?:的)?(?:身子|身体|肉体)",
    "feet": r"(?:你的?|小)(?:脚|足)(?!步|球|迹|本|够|印|踏|底下)|脚丫|脚心|脚趾|袜子",
    "sniff": r"舔|闻|摸|把玩|亲|照|捧|踩",
    "slave": r"(?:我的|当|做|是我)(?:.{0,3})(?:奴|宠物|玩物|女仆|丫头)|秀女|新婚|主人|妃子|爱妃|护士|病人|特殊服务",
    "command": r"翻牌|今晚|第一夜|让你做什么|服务|听话|跪|伺候|检查|洞房",
    "checkup": r"检查(?:一?下)?(?:你的?)?身体|把脉|疗伤|按摩|推拿|量(?:一?量)?(?:尺寸|三围)",
    "undo": r"解|脱|撩|掀|褪|衣",
    "leg": r"你的?(?:小|大|玉|美)?(?:腿|腰|胸|臀|屁股|脚|锁骨|肩|背|身子|身体|皮肤)(?:真|好|一定|肯定|又|很|那么)",
    "fondle": r"摸|亲|舔|咬|捏|揉|抱|压|软|香|滑|嫩",
    "alone": r"床上|睡觉|被窝|夜里|一个人",
    "habit": r"穿(?:不穿|什么|啥|没穿)|没穿|光着|裸|自己(?:弄|摸|解决|玩)|想(?:不想)?男人",
    "night2": r"过夜|别回(?:去|房)|留宿|睡(?:我|这)(?:里|儿|屋)|同(?:住|睡)一",
    "stay": r"陪我|我(?:的)?(?:床|被|屋|房)|一张|抱着|暖|懂的|做点|乖",
    "intimate": r"^(?:快|来)?把(?:你的?)?(?:衣服|衣裳|裤子|裙子)(?:都|全)?(?:脱|解|褪)(?:了|掉|光|开)?$|敏感(?:的)?(?:地方|部位|点|带)|在?上面还是在?下面|舌头伸|伸舌头|女(?:孩|人|生)子?的?(?:那里|下面|那儿)|该摸哪|摸(?:哪里|哪儿)|敏感吗|起反应了",
    "inside": r"(?:手|指)[^，]{0,4}(?:伸|探|滑|放)(?:进|入|到)|解(?:开)?你的?|撩起|掀(?:起|开)|衣(?:服|裳)?(?:底下|下面|里面)|裙(?:子)?(?:底|下|里)",
    "hotel": r"(?<!公)开个?房(?!间?门|产|地|子)|(?:酒店|宾馆|旅馆).{0,6}(?:等你|等我|见|只有)|约不约",
    "meet": r"聊聊|咱|今晚|跟我|和我|陪我|等你|约",
    "size": r"多大|大不大|软不软|白不白|软吗|大吗|翘",
    "shut": r"进你(?:的)?(?:屋|房|闺)|关(?:上)?门|灯(?:一)?(?:吹|关|灭)",
    "secret": r"没人(?:知道|看)|别(?:让|告诉)|偷偷|悄悄",
    "over": r"过夜|一整[晚夜]|扔|滚(?!烫)|抱(?:到|上|进|去|住)|钻|躺(?:好|下|过来)|不许走|别走|细节|旁边看|伺候|疼你|扑|压|解你|脱",
    "heat": r"硬了|湿了|起反应|有反应|欲火|火(?:大|烧|焚)|受不了|忍不住|难受|好热|发[热烫痒情]|痒|兴奋|饥渴|憋|想要",
    "below": r"下面|下边|那里|那儿|下体|身上|小腹|体内|裤裆|身下",
    "help": r"帮|给我|你|怪你",
    "voice": r"叫(?:床|一声|给|得|唤)|哼|(?<!气)喘(?!不|气|咳|口)|呻|嗯啊|声音",
    "sound": r"撩人|舒服|魅|销魂|娇|浪|骚|酥|诱|(?:哼|喘|呻吟?)(?:几|两|一)(?:声|下)",
    "past": r"第一次|初夜|初体验|经验|贞[操洁]|守宫砂|破瓜|尝过|开过苞|童子",
    "that": r"给(?:了)?谁|那[方种]面?|男女之?事|床上|床第|这方面|男人|被人|那事|和谁|跟谁",
    "role": r"小妾|通房|青楼|妓|头牌|花魁|接客|女奴|性奴|奴婢|女仆|情妇|情人|主人|客官|暖床|(?:伺候|服侍|侍候|侍奉)(?:我|爷|朕|本|一下)|陪睡|舞姬|小三",
    "serve": r"今[晚夜]|怎么|伺候|服侍|侍候|满足|取悦|接客|听话|叫主人|跪|躺|床|多少钱|春宵|扮|当我的|做我的|假装|乖",
    "lewd": r"羞羞|酱酱酿酿|为所欲为|吃干抹净|生米煮成熟饭|暖(?:一?暖)?床|春宵|云雨(?=之|一|$|吧|吗|欢)|鱼水之?欢|翻云覆雨|颠鸾倒凤|行房|周公之礼|合欢(?!花|树|皮|酒)|交合|交欢|欢好|欢爱|荤段子|荤的|黄段子|h文|肉文|肉段|露骨|情趣(?!相投|高雅)|调情|挑逗|勾引我|色诱|骚(?!客|人|扰|动|乱)|浪叫|发浪|淫|情欲|肉欲|纵欲|偷欢|野战|车震|大人(?:玩|做|之间)的|成人(?:游戏|片|内容|话题|小说|play|模式|向)|十八禁|18\\+|18x|涩图|色图|裸(?:照|聊|体|身|着|睡|露|奔给)|sex|erotic|性感的?(?:照|样|声|一面)|打一炮|来一?炮|(?:想|要)(?:和你)?睡(?:了)?你(?!旁|的|们)|(?:想|要)(?:上|干|操|日|草)了?你(?!的|们|什么|啥)|插(?:进|入)你|高潮(?=了|迭|吗|过|的(?:样|感))|湿身|扒光",
    "ask": r"你|我|吧|嘛|吗|写|来|讲|发|玩|试|今|想|妹|咱|样子|越",
    "taste": r"尝尝|滋味|吃掉你|吃了你|(?:让|要|想|来|我)(?:我)?(?:好好|狠狠)?疼爱?你|爱你一整|宠幸|临幸|占有你|征服你|享用你?|满足(?:你|我)|品尝你|得到你(?!的)",
    "night": r"整?[晚夜]|男人|床|身|好好|现在|衣|不许|今|滋味",
    "pose": r"姿势|体位|上面还是|在上面|[你我]在上(?=$|[吧吗呢好])|从后面|趴|跪下|撅|翘|张开|分开|叉开|岔开|舌头|嘴张",
    "order": r"你|主人|叫|腿|伸|给我|喜欢|乖|屁股|来",
    "order2": r"自己(?:把|来|动)|躺|给(?:爷|哥|我)|慢|一件|快点|光",
    "wear": r"穿(?!越|过马|针|堂|帮|插|搭|透)|码|颜色|款",
    "inner": r"里面|内衣|内裤|肚兜|亵|胸罩|底下|衣服下|裙子?(?:里|底|下)|丝袜|睡觉的时候|贴身|黑丝|白丝|吊带|情趣",
    "hire": r"多少钱|包(?:养|夜)|出价|开价",
    "whore": r"女人|陪|睡|一?[夜晚]",
}
_ADVANCE_RULES = _rules(
    """
    bare clothes show|bed you|show
    bare you show|bed|private
    photo sly you|show
    touch private you|show
    touch bed you
    private show you
    bed over you we
    bed over touch
    heat below help
    voice sound
    past that you
    role serve you|we
    lewd ask
    taste night you
    pose order private|bed|role|show
    wear inner you|show
    hire whore
    lying
    bath watch you|we
    intimate
    inside clothes you|show|lewd
    inside bed
    bare clothes order2
    hotel meet
    private size
    shut secret you
    euphemism
    slave command you|we
    checkup undo you|show
    leg fondle
    feet sniff you
    alone habit you
    night2 stay you|we|ask
    """
)
_ADVANCE_ELSEWHERE = re.compile(
    r"医生|大夫|护士|体检|听诊|检查|手术|化疗|药膏|瑜伽|教练|健身|减肥|跑步|老师(?:让|说|叫)|同学|游泳|澡堂|搓澡|小狗|狗狗|小猫|猫咪|宝宝|(?<![女男])孩子|儿子|女儿|喂奶|妈|老婆|老公|尺码|退货|换货|快递|晾|收衣|洗衣|干洗|叠衣|外套|羽绒|毛衣|校服|毕业照|证件照|全家福|画展|雕[塑像]|模特|博物馆|美术|素描|油画|按摩|腰疼|腰酸|熬夜|酸痛|扭[了伤]|受伤|摔|感冒|发烧|着凉|咳|淋雨|下雨|出汗|什么意思|那一?回|宝玉和袭人|奶奶|爸|加班|打呼噜|厕所|闺蜜|室友"
)
_ADVANCE_ENGLISH = {
    "bare": r"\b(?:take|taking|slip|strip|remove|undress|unbutton|get)\b",
    "clothes": r"\b(?:clothes|dress|shirt|bra|panties|underwear|robe|naked|skirt|gown|off everything)\b",
    "flesh": r"\b(?:naked|nude|body|breasts?|boobs|tits|thighs?|ass|butt|curves|cleavage|lips down|underwear|bra|panties|lingerie|bare)\b",
    "show": r"\b(?:show|describe|send|picture|pics?|photos?|see|touch|feel|kiss|lick|let me|imagine|wearing|under|size|color|colour)\b",
    "you": r"\b(?:you|your|yourself|u|ur)\b",
    "lust": r"\b(?:sex|sexy|sexual|erotic|horny|lewd|kinky|naughty|steamy|smut|nsfw|turn(?:ed)? (?:me |you )?on|seduce|moan\w*|orgasm|cum|fuck\w*|make love|spank|dirty|intimate|hook up|one night stand|foreplay|strip(?:tease)?|fetish|slut|submissive|virgin)\b",
    "do": r"\b(?:you|your|me|let's|lets|us|roleplay|send|talk|tonight|want)\b",
    "bed": r"\b(?:in|into|to|share|on) (?:my|your|the|our) bed\b|\bspend the night\b|\bunder the (?:sheets|covers|blanket)\b|\bon top of (?:me|you)\b|\bto me in bed\b|\bwithout (?:that|your|the|any) (?:dress|clothes|robe|shirt)\b|\bs3x\b|\bsit on my\b|\btouch yourself\b|\bunder (?:that|your) (?:dress|skirt|robe|clothes)\b|\bkiss (?:you|your) (?:all over|neck down|lower)\b",
}
_ADVANCE_ENGLISH_RULES = _rules(
    """
    bare clothes you
    flesh show you
    lust do
    bed do
    """
)
_ADVANCE_ELSEWHERE_ENGLISH = re.compile(
    r"\b(?:coat|jacket|boots|shoes|essay|theme|novel|book|chapter|class|gender|sexism|body paragraph|dirty (?:dishes|laundry|shoes|hands|clothes)|gym|yoga|doctor|museum|statue|sculpture|laundry|wash|party|wedding|interview|kids?|baby)\b"
)


class _Topic(NamedTuple):
    concepts: Mapping[str, re.Pattern[str]]
    grave: Sequence[_Rule]
    quiet: Sequence[_Rule]
    elsewhere: re.Pattern[str]
    """What makes it talk about something else: a novel, cooking, a walk."""
    quiet_elsewhere: re.Pattern[str]

    def met(self, stretch: str) -> bool | None:
        """True where a grave rule is met, False where a quiet one, None where none is."""
        found: dict[str, bool] = {}

        def said(names: tuple[str, ...]) -> bool:
            for name in names:
                if name not in found:
                    found[name] = self.concepts[name].search(stretch) is not None
                if found[name]:
                    return True
            return False

        for rules, grave in ((self.grave, True), (self.quiet, False)):
            if any(all(map(said, rule)) for rule in rules):
                elsewhere = self.elsewhere.search(stretch) or (
                    not grave and self.quiet_elsewhere.search(stretch)
                )
                return None if elsewhere else grave
        return None


_RISK = _Topic(
    _compile(_RISK_CONCEPTS), _RISK_RULES, _WEARY_RULES, _RISK_ELSEWHERE, _WEARY_ELSEWHERE
)
_RISK_EN = _Topic(
    _compile(_RISK_ENGLISH),
    _RISK_ENGLISH_RULES,
    _WEARY_ENGLISH_RULES,
    _RISK_ELSEWHERE_ENGLISH,
    _RISK_ELSEWHERE_ENGLISH,
)
_ADVANCE = _Topic(
    _compile(_ADVANCE_CONCEPTS), _ADVANCE_RULES, (), _ADVANCE_ELSEWHERE, _ADVANCE_ELSEWHERE
)
_ADVANCE_EN = _Topic(
    _compile(_ADVANCE_ENGLISH),
    _ADVANCE_ENGLISH_RULES,
    (),
    _ADVANCE_ELSEWHERE_ENGLISH,
    _ADVANCE_ELSEWHERE_ENGLISH,
)


def _stretches(text: str) -> Iterator[str]:
    for start in range(0, max(len(text) - _STRETCH // 2, 1), _STRETCH // 2):
        yield text[start : start + _STRETCH]


def risk(bare: str, spaced: str) -> bool | None:
    """True: a life may be at risk; False: someone is tired of life; None: neither is heard.

    `bare` is the message without signs and spaces, `spaced` its lower-case words for English.
    """
    heard = {_RISK.met(stretch) for stretch in _stretches(bare)}
    heard |= {_RISK_EN.met(stretch) for stretch in _stretches(spaced)}
    return True if True in heard else False if False in heard else None


def elsewhere(bare: str) -> bool:
    """Whether a message names what makes it talk about something else: a novel, a game, cooking."""
    return _RISK_ELSEWHERE.search(bare) is not None


def advance(bare: str, spaced: str) -> bool:
    """Whether a sexual advance is heard."""
    return any(map(_ADVANCE.met, _stretches(bare))) or any(map(_ADVANCE_EN.met, _stretches(spaced)))
